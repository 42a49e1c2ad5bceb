// WebGL 2: points as round splats into a texture with depth, then eye-dome lighting onto the screen.

const POINTS_VERTEX = `#version 300 es
precision highp float;
precision highp int;
layout(location = 0) in uvec4 place; // x, y, z of 65535; source + 256 * strength
layout(location = 1) in uvec4 marks; // classes of three layers, code of the difference
uniform mat4 matrix;
uniform vec3 low, span;
uniform vec2 heights;
uniform float size, focal, least;
uniform int layer, mode, truth; // mode 0 class, 1 strength, 2 height, 3 source, 4 difference
uniform highp sampler2D palette; // rows: classes, differences, sources, ramp; alpha 0 hides
out vec3 colour;
vec4 entry(uint column, int row) { return texelFetch(palette, ivec2(int(column), row), 0); }
void main() {
  vec3 p = low + vec3(place.xyz) / 65535.0 * span;
  gl_Position = matrix * vec4(p, 1.0);
  gl_PointSize = clamp(size * focal / max(gl_Position.w, 0.01), least, 40.0);
  uint own = layer == 0 ? marks.x : layer == 1 ? marks.y : marks.z;
  vec4 shown = entry(own, 0);
  if (mode == 4) {
    float seen = truth == 1 ? entry(marks.x, 0).a : 1.0;
    shown = entry(marks.w, 1);
    shown.a *= seen;
    // What is wrong is what one looks for: it may be larger than the rest.
    if (marks.w != 0u && marks.w != 255u) gl_PointSize *= 1.35;
  } else if (mode != 0) {
    float value = mode == 1 ? float(place.w >> 8) / 255.0 : clamp((p.z - heights.x) / max(heights.y - heights.x, 0.01), 0.0, 1.0);
    vec4 other = mode == 3 ? entry(place.w & 255u, 2) : entry(uint(value * 255.0), 3);
    shown = vec4(other.rgb, shown.a * other.a);
  }
  colour = shown.rgb;
  if (shown.a < 0.5) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
}`;

const POINTS_FRAGMENT = `#version 300 es
precision mediump float;
in vec3 colour;
out vec4 pixel;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (dot(off, off) > 0.25) discard;
  pixel = vec4(colour, 1.0);
}`;

const LINES_VERTEX = `#version 300 es
layout(location = 0) in vec3 place;
uniform mat4 matrix;
void main() { gl_Position = matrix * vec4(place, 1.0); }`;

const LINES_FRAGMENT = `#version 300 es
precision mediump float;
uniform vec3 tint;
out vec4 pixel;
void main() { pixel = vec4(tint, 0.75); }`;

const SCREEN_VERTEX = `#version 300 es
out vec2 uv;
void main() {
  uv = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0;
  gl_Position = vec4(uv * 2.0 - 1.0, 0.0, 1.0);
}`;

const SCREEN_FRAGMENT = `#version 300 es
precision highp float;
in vec2 uv;
uniform sampler2D image;
uniform highp sampler2D depths;
uniform vec2 range, texel;
uniform float shading;
out vec4 pixel;
float depthAt(vec2 at) {
  float d = texture(depths, at).r;
  if (d >= 1.0) return -1.0;
  return 2.0 * range.x * range.y / (range.y + range.x - (2.0 * d - 1.0) * (range.y - range.x));
}
void main() {
  vec3 colour = texture(image, uv).rgb;
  float own = depthAt(uv), total = 0.0;
  if (own > 0.0 && shading > 0.0) {
    float level = log2(own);
    for (int i = 0; i < 8; i++) {
      float turn = float(i) * 0.7853982;
      float other = depthAt(uv + vec2(cos(turn), sin(turn)) * texel * 1.6);
      if (other > 0.0) total += clamp((level - log2(other)) * 8.0, 0.0, 1.5);
    }
    colour *= exp(-shading * total / 8.0 * 1.6);
  }
  pixel = vec4(colour, 1.0);
}`;

class Renderer {
  constructor(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
    if (!gl) throw new Error("WebGL 2");
    this.gl = gl;
    this.canvas = canvas;
    this.points = this.program(POINTS_VERTEX, POINTS_FRAGMENT);
    this.lines = this.program(LINES_VERTEX, LINES_FRAGMENT);
    this.screen = this.program(SCREEN_VERTEX, SCREEN_FRAGMENT);
    this.buffer = gl.createBuffer();
    this.array = gl.createVertexArray();
    gl.bindVertexArray(this.array);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer);
    gl.enableVertexAttribArray(0);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribIPointer(0, 4, gl.UNSIGNED_SHORT, BYTES, 0);
    gl.vertexAttribIPointer(1, 4, gl.UNSIGNED_BYTE, BYTES, 8);
    this.ringBuffer = gl.createBuffer();
    this.ringArray = gl.createVertexArray();
    gl.bindVertexArray(this.ringArray);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.ringBuffer);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
    this.empty = gl.createVertexArray();
    this.palette = this.texture(gl.NEAREST);
    this.image = this.texture(gl.LINEAR);
    this.depth = this.texture(gl.NEAREST);
    this.target = gl.createFramebuffer();
    this.sharp = 2; // pixels drawn for one shown, along an axis
    this.shape = "";
    this.rings = [];
  }

  program(vertex, fragment) {
    const gl = this.gl;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    const at = {};
    for (let i = 0; i < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); i++) {
      const name = gl.getActiveUniform(program, i).name;
      at[name] = gl.getUniformLocation(program, name);
    }
    return { program, at };
  }

  texture(filter) {
    const gl = this.gl;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, filter);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    return texture;
  }

  /** Take the points of a scan, and rings of these radii on its ground. */
  load(frame, radii) {
    const gl = this.gl;
    this.frame = frame;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, frame.bytes, gl.STATIC_DRAW);
    const steps = 128, places = [];
    this.rings = radii.map((_, i) => [i * steps, steps]);
    for (const radius of radii) {
      for (let i = 0; i < steps; i++) {
        const turn = (2 * Math.PI * i) / steps;
        places.push(radius * Math.cos(turn), radius * Math.sin(turn), frame.info.ground);
      }
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, this.ringBuffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(places), gl.STATIC_DRAW);
  }

  /** Take the colours: four rows of 256 RGBA entries. */
  setPalette(rows) {
    const gl = this.gl;
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 4, 0, gl.RGBA, gl.UNSIGNED_BYTE, rows);
  }

  resize() {
    const gl = this.gl;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    const sharp = ratio > 1.4 ? 1 : this.sharp;
    const shape = `${width} ${height} ${sharp}`;
    if (shape === this.shape) return;
    this.shape = shape;
    [this.canvas.width, this.canvas.height] = [width, height];
    [this.width, this.height] = [width * sharp, height * sharp];
    gl.bindTexture(gl.TEXTURE_2D, this.image);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, this.width, this.height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    gl.bindTexture(gl.TEXTURE_2D, this.depth);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.DEPTH_COMPONENT24, this.width, this.height, 0, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT, null);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.image, 0);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, this.depth, 0);
  }

  /** Draw views {x, y, width, height in [0, 1], layer, mode} with one camera. */
  draw(camera, views, look) {
    const gl = this.gl;
    this.resize();
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target);
    gl.disable(gl.SCISSOR_TEST);
    gl.viewport(0, 0, this.width, this.height);
    gl.depthMask(true);
    gl.clearColor(...look.paper, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.SCISSOR_TEST);
    gl.enable(gl.DEPTH_TEST);
    let range = [0.1, 1000];
    for (const view of views) {
      const box = [view.x * this.width, (1 - view.y - view.height) * this.height, view.width * this.width, view.height * this.height].map(Math.round);
      gl.viewport(...box);
      gl.scissor(...box);
      const { matrix, near, far } = camera.matrix(box[2] / Math.max(1, box[3]));
      range = [near, far];
      this.drawPoints(matrix, view, look, box[3]);
      if (look.rings) this.drawRings(matrix, look);
    }
    gl.disable(gl.SCISSOR_TEST);
    gl.disable(gl.DEPTH_TEST);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    this.use(this.screen);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.depth);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.image);
    gl.uniform1i(this.screen.at.depths, 1);
    gl.uniform2f(this.screen.at.range, ...range);
    gl.uniform2f(this.screen.at.texel, 1 / this.canvas.width, 1 / this.canvas.height);
    gl.uniform1f(this.screen.at.shading, look.shading);
    gl.bindVertexArray(this.empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  drawPoints(matrix, view, look, height) {
    const gl = this.gl;
    const { program: _, at } = this.use(this.points);
    const { low, span, heights, points } = this.frame.info;
    const sharp = this.width / this.canvas.width;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.palette);
    gl.uniformMatrix4fv(at.matrix, false, matrix);
    gl.uniform3f(at.low, ...low);
    gl.uniform3f(at.span, ...span);
    gl.uniform2f(at.heights, ...heights);
    gl.uniform1f(at.size, 0.09 * look.size);
    gl.uniform1f(at.focal, height / (2 * Math.tan(FIELD / 2)));
    gl.uniform1f(at.least, Math.max(1, 1.3 * sharp * Math.min(1.5, look.size)));
    gl.uniform1i(at.layer, view.layer);
    gl.uniform1i(at.mode, view.mode);
    gl.uniform1i(at.truth, DOCUMENT.truth ? 1 : 0);
    gl.bindVertexArray(this.array);
    gl.drawArrays(gl.POINTS, 0, points);
  }

  drawRings(matrix, look) {
    const gl = this.gl;
    const { at } = this.use(this.lines);
    gl.uniformMatrix4fv(at.matrix, false, matrix);
    gl.uniform3f(at.tint, ...look.line);
    gl.bindVertexArray(this.ringArray);
    // No depth of their own: lighting would take them for edges.
    gl.depthMask(false);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    for (const [start, count] of this.rings) gl.drawArrays(gl.LINE_LOOP, start, count);
    gl.disable(gl.BLEND);
    gl.depthMask(true);
  }

  use(chosen) {
    this.gl.useProgram(chosen.program);
    return chosen;
  }
}

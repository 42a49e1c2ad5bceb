// An orbit camera: it looks at a target from a distance, z upwards.

const FIELD = (48 * Math.PI) / 180; // of view, from top to bottom
const STEEPEST = Math.PI / 2 - 1e-3;

class Camera {
  constructor(home) {
    this.home = home;
    Object.assign(this, structuredClone(home));
    this.goal = null;
  }

  /** Go to where {target, distance, azimuth, elevation} says, at once or gently. */
  go(where, gently = true) {
    const goal = { ...this.state(), ...structuredClone(where) };
    // The short way round.
    goal.azimuth += Math.round((this.azimuth - goal.azimuth) / (2 * Math.PI)) * 2 * Math.PI;
    if (gently) this.goal = goal;
    else {
      Object.assign(this, goal);
      this.goal = null;
    }
  }

  state() {
    return { target: [...this.target], distance: this.distance, azimuth: this.azimuth, elevation: this.elevation };
  }

  /** Move towards the goal; whether it is still on its way. */
  step(milliseconds) {
    if (!this.goal) return false;
    const part = 1 - Math.exp(-milliseconds / 90);
    let rest = 0;
    const near = (from, to) => {
      rest = Math.max(rest, Math.abs(to - from));
      return from + (to - from) * part;
    };
    this.target = this.target.map((value, i) => near(value, this.goal.target[i]));
    for (const key of ["distance", "azimuth", "elevation"]) this[key] = near(this[key], this.goal[key]);
    if (rest < 1e-3) this.go(this.goal, false);
    return this.goal !== null;
  }

  orbit(dx, dy) {
    this.goal = null;
    this.azimuth -= dx * 0.006;
    this.elevation = Math.min(STEEPEST, Math.max(-0.3, this.elevation + dy * 0.006));
  }

  /** Shift by pixels of a view of that height. */
  pan(dx, dy, height) {
    this.goal = null;
    const metres = (2 * this.distance * Math.tan(FIELD / 2)) / height;
    const { right, up } = this.axes();
    this.target = this.target.map((value, i) => value + (-dx * right[i] + dy * up[i]) * metres);
  }

  zoom(factor) {
    this.goal = null;
    this.distance = Math.min(800, Math.max(0.5, this.distance * factor));
  }

  axes() {
    const [ca, sa, ce, se] = [Math.cos(this.azimuth), Math.sin(this.azimuth), Math.cos(this.elevation), Math.sin(this.elevation)];
    // azimuth 0 looks along x from behind.
    return { right: [sa, -ca, 0], up: [ca * se, sa * se, ce], back: [-ca * ce, -sa * ce, se] };
  }

  eye() {
    const { back } = this.axes();
    return this.target.map((value, i) => value + back[i] * this.distance);
  }

  /** World to clip space, column by column. */
  matrix(aspect) {
    const { right, up, back } = this.axes();
    const eye = this.eye();
    const [near, far] = [Math.max(0.05, this.distance / 200), this.distance + 600];
    const f = 1 / Math.tan(FIELD / 2);
    const rows = [right, up, back].map((axis) => [...axis, -dot(axis, eye)]);
    const [x, y, z] = rows;
    const a = (far + near) / (near - far), b = (2 * far * near) / (near - far);
    const result = new Float32Array(16);
    for (let i = 0; i < 4; i++) {
      result[i * 4] = (f / aspect) * x[i];
      result[i * 4 + 1] = f * y[i];
      result[i * 4 + 2] = a * z[i] + (i === 3 ? b : 0);
      result[i * 4 + 3] = -z[i];
    }
    return { matrix: result, near, far };
  }
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

/** Where a point is in a view, in [0, 1] from the left and the top, and its depth; null if it is behind. */
function project(matrix, p) {
  const clip = [0, 1, 3].map((row) => matrix[row] * p[0] + matrix[4 + row] * p[1] + matrix[8 + row] * p[2] + matrix[12 + row]);
  return clip[2] <= 0.05 ? null : { x: 0.5 + clip[0] / clip[2] / 2, y: 0.5 - clip[1] / clip[2] / 2, depth: clip[2] };
}

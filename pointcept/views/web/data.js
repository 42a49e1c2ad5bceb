// The document and the scans that the page holds.

const DOCUMENT = JSON.parse(document.getElementById("document").textContent);
const NONE = 255;
const BYTES = 12; // of a point, see pointcept/views/page.py

/** Bytes of a zlib stream in base64. */
async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Scans by number, unpacked when they are first asked for; the latest few are kept. */
class Frames {
  constructor(kept = 64) {
    this.kept = kept;
    this.cache = new Map();
  }

  get length() {
    return DOCUMENT.frames.length;
  }

  /** {info, bytes}: 12 bytes a point, as the renderer takes them. */
  get(index) {
    if (!this.cache.has(index)) {
      this.cache.set(index, this.unpack(index));
      if (this.cache.size > this.kept) this.cache.delete(this.cache.keys().next().value);
    }
    return this.cache.get(index);
  }

  async unpack(index) {
    const info = DOCUMENT.frames[index];
    const planes = await inflate(document.getElementById(`frame-${index}`).textContent);
    const bytes = new Uint8Array(planes.length);
    for (let place = 0; place < BYTES; place++) {
      const start = place * info.points;
      for (let i = 0; i < info.points; i++) bytes[i * BYTES + place] = planes[start + i];
    }
    return { info, bytes, words: new Uint16Array(bytes.buffer) };
  }
}

/** Position of a point [m]. */
function positionOf(frame, index) {
  const { low, span } = frame.info;
  const at = index * 6;
  return [0, 1, 2].map((axis) => low[axis] + (frame.words[at + axis] / 65535) * span[axis]);
}

function hexToRgb(colour) {
  return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
}

function percent(value) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(1);
}

function short(number) {
  if (number === null || number === undefined) return "";
  if (number < 1000) return String(number);
  return number < 1e4 ? `${(number / 1e3).toFixed(1)} k` : number < 1e6 ? `${Math.round(number / 1e3)} k` : `${(number / 1e6).toFixed(1)} M`;
}

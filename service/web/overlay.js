// A canvas over a picture, on which one layer is drawn at whatever size the picture is shown.

// What no entry has: everything is faint then.
export const NONE = -1;

export class Overlay {
  constructor(canvas, picture) {
    this.canvas = canvas;
    this.picture = picture;
    this.layer = null;
    this.chosen = null;
    new ResizeObserver(() => this.draw()).observe(picture);
  }

  // size: the picture's own, to which the layer's places refer.
  show(layer, size) {
    Object.assign(this, { layer, size, chosen: null });
    this.draw();
  }

  // chosen: whose place alone is shown; null for all, NONE for none.
  choose(chosen) {
    this.chosen = chosen;
    this.draw();
  }

  clear() {
    this.show(null, null);
  }

  draw() {
    const { canvas, picture, layer, size } = this;
    canvas.hidden = !layer;
    if (!layer || !picture.clientWidth) return;
    const density = window.devicePixelRatio;
    canvas.width = Math.round(picture.clientWidth * density);
    canvas.height = Math.round(picture.clientHeight * density);
    // As the browser fits a picture into its element.
    const scale = Math.min(canvas.width / size.width, canvas.height / size.height);
    const left = (canvas.width - scale * size.width) / 2;
    const top = (canvas.height - scale * size.height) / 2;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    layer(context, { left, top, scale, density, ...size }, this.chosen);
  }
}

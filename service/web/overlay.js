// What was found, drawn over the picture: boxes with names, masks, or a map of classes.

const LINE_PX = 2.5;
const TEXT_PX = 13;
const MASK_OPACITY = 0.45;
const MAP_OPACITY = 0.6;
const DIMMED = 0.15;
const UNSEEN = 255;

// Neighbours differ most when each takes the golden angle from the one before.
export function colour(index) {
  const hue = (index * 137.508) % 360;
  const light = [0.55, 0.42, 0.68][index % 3];
  const spread = 0.75 * Math.min(light, 1 - light);
  return [0, 8, 4].map((offset) => {
    const at = (offset + hue / 30) % 12;
    return Math.round(255 * (light - spread * Math.max(-1, Math.min(at - 3, 9 - at, 1))));
  });
}

export const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

const isLight = ([red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue > 140;

// Draws one layer, and draws it anew whenever the picture is shown at another size.
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
    const context = canvas.getContext("2d");
    layer(context, { left, top, scale, density, ...size }, this.chosen);
  }
}

function outline(polygons, { left, top, scale }) {
  const path = new Path2D();
  for (const polygon of polygons) {
    for (let i = 0; i < polygon.length; i += 2)
      path.lineTo(left + scale * polygon[i], top + scale * polygon[i + 1]);
    path.closePath();
  }
  return path;
}

function drawBox(context, { box, index }, { left, top, scale, density }) {
  context.lineWidth = LINE_PX * density;
  context.strokeStyle = css(colour(index));
  context.strokeRect(
    left + scale * box.left,
    top + scale * box.top,
    scale * (box.right - box.left),
    scale * (box.bottom - box.top),
  );
}

function drawName(context, { box, index, label }, { left, top, scale, density, width }) {
  const [text] = label.split(", ");
  const height = 1.4 * TEXT_PX * density;
  context.font = `600 ${TEXT_PX * density}px system-ui, sans-serif`;
  const long = context.measureText(text).width + 0.8 * TEXT_PX * density;
  // Above the box, or in it where there is no room; never beyond the right edge.
  const x = Math.max(left, Math.min(left + scale * box.left, left + scale * width - long));
  const above = top + scale * box.top - height;
  const y = above < top ? top + scale * box.top : above;
  context.fillStyle = css(colour(index));
  context.fillRect(x, y, long, height);
  context.fillStyle = isLight(colour(index)) ? "#000" : "#fff";
  context.textBaseline = "middle";
  context.fillText(text, x + 0.4 * TEXT_PX * density, y + height / 2);
}

// Things with boxes and perhaps polygons; the first, of the highest score, on top.
export function things(detections) {
  return (context, place, chosen) => {
    const shown = detections.map((thing, i) => [thing, i]).reverse();
    for (const [thing, i] of shown) {
      const faint = chosen === null || chosen === i ? 1 : DIMMED;
      if (thing.polygons) {
        context.globalAlpha = faint * MASK_OPACITY;
        context.fillStyle = css(colour(thing.index));
        context.fill(outline(thing.polygons, place));
      }
      context.globalAlpha = faint;
      drawBox(context, thing, place);
    }
    for (const [thing, i] of shown) {
      context.globalAlpha = chosen === null || chosen === i ? 1 : 0;
      drawName(context, thing, place);
    }
  };
}

// Each pixel in the colour of its class. png: base64 of a grey picture of class indices.
export async function map(png) {
  const picture = new Image();
  picture.src = `data:image/png;base64,${png}`;
  await picture.decode();
  return (context, { left, top, scale, width, height }, chosen) => {
    // A class is no shade: between two of them lies no third.
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, left, top, scale * width, scale * height);
    const { width: columns, height: rows } = context.canvas;
    const image = context.getImageData(0, 0, columns, rows);
    const { data } = image;
    for (let i = 0; i < data.length; i += 4) {
      const index = data[i];
      const seen = data[i + 3] > 127 && index !== UNSEEN;
      const opacity = chosen === null ? MAP_OPACITY : chosen === index ? 0.85 : DIMMED;
      [data[i], data[i + 1], data[i + 2]] = COLOURS[index];
      data[i + 3] = seen ? 255 * opacity : 0;
    }
    context.putImageData(image, 0, 0);
  };
}

const COLOURS = Array.from({ length: 256 }, (_, index) => colour(index));

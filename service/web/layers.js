// What was found, as layers over the picture: boxes with names and masks, or a map of classes.

import { colour, css, ink } from "/assets/colours.js";
import { placed } from "/assets/names.js";

const LINE_PX = 2.5;
const TEXT_PX = 13;
const MASK_OPACITY = 0.45;
const MAP_OPACITY = 0.6;
const CHOSEN_OPACITY = 0.85;
const DIMMED = 0.15;
const UNSEEN = 255;

function outline(polygons, { left, top, scale }) {
  const path = new Path2D();
  for (const polygon of polygons) {
    for (let i = 0; i < polygon.length; i += 2)
      path.lineTo(left + scale * polygon[i], top + scale * polygon[i + 1]);
    path.closePath();
  }
  return path;
}

function onCanvas(box, { left, top, scale }) {
  return {
    left: left + scale * box.left,
    top: top + scale * box.top,
    right: left + scale * box.right,
    bottom: top + scale * box.bottom,
  };
}

function drawBox(context, { box, index }, place) {
  const { left, top, right, bottom } = onCanvas(box, place);
  context.lineWidth = LINE_PX * place.density;
  context.strokeStyle = css(colour(index));
  context.strokeRect(left, top, right - left, bottom - top);
}

function drawNames(context, things, place) {
  const { left, top, scale, density, width, height } = place;
  const text = TEXT_PX * density;
  context.font = `600 ${text}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const names = things.map(({ box, label }) => {
    const [name] = label.split(", ");
    const size = { width: context.measureText(name).width + 0.8 * text, height: 1.4 * text };
    return { name, box: onCanvas(box, place), size };
  });
  const area = { left, top, right: left + scale * width, bottom: top + scale * height };
  placed(names, area).forEach((where, i) => {
    if (!where) return;
    const rgb = colour(things[i].index);
    context.fillStyle = css(rgb);
    context.fillRect(where.x, where.y, where.width, where.height);
    context.fillStyle = ink(rgb);
    context.fillText(names[i].name, where.x + 0.4 * text, where.y + where.height / 2);
  });
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
    context.globalAlpha = 1;
    drawNames(context, detections.filter((_, i) => chosen === null || chosen === i), place);
  };
}

// A grey picture of class indices, from base64.
export async function decoded(png) {
  const picture = new Image();
  picture.src = `data:image/png;base64,${png}`;
  await picture.decode();
  return picture;
}

// Each pixel in the colour of its class.
export function map(picture) {
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
      const opacity = chosen === null ? MAP_OPACITY : chosen === index ? CHOSEN_OPACITY : DIMMED;
      [data[i], data[i + 1], data[i + 2]] = COLOURS[index];
      data[i + 3] = seen ? 255 * opacity : 0;
    }
    context.putImageData(image, 0, 0);
  };
}

const COLOURS = Array.from({ length: 256 }, (_, index) => colour(index));

// Where the names of boxes stand on a picture, so that none covers another.

const GAP_PX = 1;

const apart = (a, b) =>
  a.x + a.width + GAP_PX <= b.x ||
  b.x + b.width + GAP_PX <= a.x ||
  a.y + a.height + GAP_PX <= b.y ||
  b.y + b.height + GAP_PX <= a.y;

// Above the box, in it at the top, in it at the bottom, below; from the left and from the right.
function* places({ left, top, right, bottom }, { width, height }) {
  for (const y of [top - height, top, bottom - height, bottom])
    for (const x of [left, right - width]) yield { x, y };
  // Then anywhere along its left edge, which still says whose name it is.
  for (let y = top + height + GAP_PX; y + height < bottom; y += height + GAP_PX)
    yield { x: left, y };
}

// names: [{ box, size }], the most important first. Gives a rectangle for each, or null where
// there is no room: then the list beside the picture has the name.
export function placed(names, area) {
  const taken = [];
  return names.map(({ box, size }) => {
    for (const { x, y } of places(box, size)) {
      // Above the topmost pixel there is no room: the next place lies in the box.
      if (y < area.top || y + size.height > area.bottom) continue;
      const found = { x: Math.max(area.left, Math.min(x, area.right - size.width)), y, ...size };
      if (taken.every((other) => apart(found, other))) {
        taken.push(found);
        return found;
      }
    }
    return null;
  });
}

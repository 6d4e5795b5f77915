// The colour of each class, and what can be read on it.

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

const linear = (value) =>
  value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;

// Black or white, whichever has more contrast by WCAG 2; one of them always has 4.5.
export function ink(rgb) {
  const [red, green, blue] = rgb.map(linear);
  const luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  return (luminance + 0.05) ** 2 > 0.05 * 1.05 ? "#000" : "#fff";
}

"use strict";

// From cold to hot, each [red, green, blue, alpha]. The picture below is grey, so colour is heat.
const COLOURS = [[40, 24, 92, .62], [146, 38, 130, .6], [240, 96, 60, .58], [255, 226, 92, .6]];
const FINE = 96;

// The value of a map between its cells; row and column in cells, counted from the middle of the first.
function between(map, row, column) {
  const last = map.length - 1;
  const clamp = (at) => Math.min(Math.max(at, 0), last);
  const [y, x] = [clamp(row), clamp(column)];
  const [top, left] = [Math.floor(y), Math.floor(x)];
  const [bottom, right] = [Math.min(top + 1, last), Math.min(left + 1, last)];
  const [down, across] = [y - top, x - left];
  const upper = map[top][left] * (1 - across) + map[top][right] * across;
  const lower = map[bottom][left] * (1 - across) + map[bottom][right] * across;
  return upper * (1 - down) + lower * down;
}

function colour(heat) {
  const at = heat * (COLOURS.length - 1);
  const low = Math.min(Math.floor(at), COLOURS.length - 2);
  return COLOURS[low].map((value, part) => value + (COLOURS[low + 1][part] - value) * (at - low));
}

// A canvas of the map, scaled to its own highest value; where all is 0 nothing is hot.
function heatOf(map) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = FINE;
  const pixels = canvas.getContext("2d").createImageData(FINE, FINE);
  const highest = Math.max(...map.map((row) => Math.max(...row))) || 1;
  for (let y = 0; y < FINE; y++) {
    for (let x = 0; x < FINE; x++) {
      const place = (at) => (at + .5) * map.length / FINE - .5;
      const [red, green, blue, alpha] = colour(between(map, place(y), place(x)) / highest);
      pixels.data.set([red, green, blue, 255 * alpha], 4 * (y * FINE + x));
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// Draw a picture, grey and stretched to the square that the model sees, and a map over it.
function drawTile(tile, picture, heat) {
  tile.width = tile.height = 176;
  const context = tile.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, tile.width, tile.height);
  context.filter = "grayscale(1)";
  context.drawImage(picture, 0, 0, tile.width, tile.height);
  context.filter = "none";
  context.drawImage(heat, 0, 0, tile.width, tile.height);
}

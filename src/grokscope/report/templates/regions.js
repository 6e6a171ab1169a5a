"use strict";
// Linear regions on slices of input space, as panels/regions.py encodes them.
const regionsReader = ({ data, named, channels, paint, player }) => {
  const GRID = 2047;
  const NEAR_GRID = 255;
  const LEVELS = 63;

  const unpacked = async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(plain).arrayBuffer());
    const half = planes.length / 2;
    return Int16Array.from({ length: half }, (_, i) => planes[i] | (planes[half + i] << 8));
  };

  const summed = (steps) => {
    let sum = 0;
    return Int16Array.from(steps, (step) => (sum += step));
  };

  const parsed = async (frame) => {
    const numbers = await unpacked(frame.numbers);
    const parts = {};
    let at = 0;
    for (const [name, size] of Object.entries(frame.sizes)) {
      const part = numbers.subarray(at, (at += size));
      parts[name] = name === "image" || /_[xy]$/.test(name) ? summed(part) : part;
    }
    return { ...parts, norms: frame.norms };
  };

  const ramp = (colors, share) => {
    const place = Math.min(Math.max(share, 0), 1) * (colors.length - 1);
    const low = Math.min(Math.floor(place), colors.length - 2);
    return colors[low].map((c, i) => Math.round(c + (colors[low + 1][i] - c) * (place - low)));
  };

  // The color of each level of a frame, on the scale from one norm to another.
  const palette = (colors, frame, [low, high]) => {
    const [first, last] = frame.norms.map(Math.log);
    const span = Math.log(high / low) || 1;
    return Array.from({ length: LEVELS + 1 }, (_, level) =>
      ramp(colors, (first + ((last - first) * level) / LEVELS - Math.log(low)) / span));
  };

  const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
  const isDark = ([r, g, b]) => 0.3 * r + 0.59 * g + 0.11 * b < 110;
  const middle = (levels) => levels.reduce((sum, level) => sum + level, 0) / levels.length;

  // A square canvas with as many pixels as the screen has, in units of its own width.
  const fitted = (canvas) => {
    const width = canvas.clientWidth;
    const ratio = Math.max(window.devicePixelRatio || 1, 1);
    canvas.width = canvas.height = Math.round(width * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return [context, width];
  };

  const trace = (context, lengths, x, y, place, closed) => {
    let at = 0;
    for (const length of lengths) {
      for (let i = 0; i < length; i++, at++) {
        const [px, py] = place(x[at], y[at]);
        if (i) context.lineTo(px, py);
        else context.moveTo(px, py);
      }
      if (closed) context.closePath();
    }
  };

  const strokeBoundary = (context, segments, place, width) => {
    context.beginPath();
    for (let i = 0; i < segments.length; i += 4) {
      context.moveTo(...place(segments[i], segments[i + 1]));
      context.lineTo(...place(segments[i + 2], segments[i + 3]));
    }
    context.lineCap = context.lineJoin = "round";
    haloed(context, width);
  };

  const haloed = (context, width) => {
    for (const [color, wide] of [["rgba(20, 0, 30, 0.7)", width + 2.2], ["#fff", width]]) {
      context.strokeStyle = color;
      context.lineWidth = wide;
      context.stroke();
    }
  };

  const kinks = (context, dark, width) => {
    context.strokeStyle = dark ? "rgba(255, 255, 255, 0.34)" : "rgba(20, 0, 30, 0.42)";
    context.lineWidth = width;
    context.lineJoin = "round";
    context.stroke();
  };

  const drawImage = (context, frame, colors, width) => {
    const side = Math.sqrt(frame.image.length);
    const image = new ImageData(side, side);
    frame.image.forEach((level, i) => image.data.set([...colors[level], 255], 4 * i));
    const small = document.createElement("canvas");
    small.width = small.height = side;
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, width, width);
  };

  const drawPoints = (context, film, width) => {
    context.font = `600 16px ${getComputedStyle(document.body).fontFamily}`;
    context.textBaseline = "middle";
    film.points.forEach(([x, y], i) => {
      const [px, py] = [x * width, (1 - y) * width];
      context.beginPath();
      context.arc(px, py, film.radius * width, 0, 2 * Math.PI);
      haloed(context, 1.2);
      context.beginPath();
      context.arc(px, py, 3.5, 0, 2 * Math.PI);
      context.fillStyle = "#fff";
      context.strokeStyle = "#000";
      context.fill();
      context.stroke();
      const right = px + film.radius * width + 24 > width;
      context.textAlign = right ? "right" : "left";
      const at = px + (right ? -1 : 1) * (film.radius * width + 5);
      context.lineWidth = 4;
      context.lineJoin = "round";
      context.strokeStyle = "rgba(20, 0, 30, 0.8)";
      context.strokeText(film.labels[i], at, py);
      context.fillText(film.labels[i], at, py);
    });
  };

  const drawPlane = (canvas, frame, film, colors) => {
    const [context, width] = fitted(canvas);
    const place = (x, y) => [(x / GRID) * width, (1 - y / GRID) * width];
    drawImage(context, frame, colors, width);
    context.beginPath();
    trace(context, frame.lines_lengths, frame.lines_x, frame.lines_y, place, false);
    kinks(context, isDark(colors[Math.round(middle(frame.image))]), 0.5);
    strokeBoundary(context, frame.boundary, place, 1.8);
    drawPoints(context, film, width);
  };

  // The exact regions around one point, seen through a lens.
  const drawLens = (canvas, frame, point, colors) => {
    const [context, width] = fitted(canvas);
    const place = (x, y) => [(x / NEAR_GRID) * width, (1 - y / NEAR_GRID) * width];
    context.beginPath();
    context.arc(width / 2, width / 2, width / 2, 0, 2 * Math.PI);
    context.clip();
    const outlines = new Path2D();
    let at = 0;
    let levels = 0;
    let cells = 0;
    frame.cells_lengths.forEach((length, i) => {
      const [from, to] = [at, (at += length)];
      if (frame.cell_points[i] !== point) return;
      const [x, y] = [frame.cells_x.subarray(from, to), frame.cells_y.subarray(from, to)];
      const cell = new Path2D();
      trace(cell, [length], x, y, place, true);
      context.fillStyle = context.strokeStyle = css(colors[frame.cell_levels[i]]);
      context.lineWidth = 0.5;
      context.fill(cell);
      context.stroke(cell);
      outlines.addPath(cell);
      levels += frame.cell_levels[i];
      cells++;
    });
    context.strokeStyle = isDark(colors[Math.round(levels / Math.max(cells, 1))])
      ? "rgba(255, 255, 255, 0.4)" : "rgba(20, 0, 30, 0.5)";
    context.lineWidth = 0.6;
    context.stroke(outlines);
    const own = (_, i) => frame.near_boundary_points[Math.floor(i / 4)] === point;
    strokeBoundary(context, frame.near_boundary.filter(own), place, 1.8);
    context.beginPath();
    context.arc(width / 2, width / 2, 3, 0, 2 * Math.PI);
    context.fillStyle = "#fff";
    context.strokeStyle = "#000";
    context.lineWidth = 1;
    context.fill();
    context.stroke();
  };

  const short = (value) => Number(value.toPrecision(2)).toLocaleString("en");

  const drawBar = (film, frame, scale, colors) => {
    const [low, high] = scale;
    const share = (norm) => (100 * Math.log(norm / low)) / (Math.log(high / low) || 1);
    const [from, to] = frame.norms.map(share);
    film.querySelector(".low").textContent = short(low);
    film.querySelector(".high").textContent = short(high);
    film.querySelector(".ramp").style.background =
      `linear-gradient(90deg, ${colors.map(css).join(", ")})`;
    const mark = film.querySelector(".ramp i");
    mark.style.left = `${from}%`;
    mark.style.width = `${Math.max(to - from, 0.5)}%`;
    film.querySelector(".ends").textContent =
      `Operator norms from ${short(frame.norms[0])} to ${short(frame.norms[1])}`;
  };

  const drawThumbnail = (canvas, pixels, point) => {
    const depth = Number(canvas.dataset.channels);
    const size = canvas.width * canvas.height * depth;
    const own = pixels.slice(point * size, (point + 1) * size);
    paint(canvas, own, 0, { channels: depth, signed: own.some((value) => value < 0) });
  };

  return async (box) => {
    const content = data[box.dataset.regions];
    const colors = content.colors.map(channels);
    const films = await Promise.all(content.films.map(async (film) => ({
      ...film, frames: await Promise.all(film.frames.map(parsed)),
    })));
    const elements = [...box.querySelectorAll(".film")];
    const choices = [...box.querySelectorAll("[data-scale]")];
    let own = false;
    const show = (place) => {
      elements.forEach((element, number) => {
        const film = films[number];
        const frame = film.frames[film.frame[place]];
        const scale = own ? frame.norms : content.norms;
        const levels = palette(colors, frame, scale);
        drawPlane(element.querySelector(".plane"), frame, film, levels);
        drawBar(element, frame, scale, colors);
        element.querySelectorAll("[data-near]").forEach((canvas, i) => {
          const { near } = canvas.dataset;
          const point = i % film.points.length;
          if (near === "lens") drawLens(canvas, frame, point, levels);
          else drawThumbnail(canvas, near === "images" ? film.images : frame[near], point);
        });
        element.querySelector(".metrics-at").textContent = film.metrics[place];
      });
    };
    const again = player(box, content.steps, show);
    for (const button of choices) {
      button.addEventListener("click", () => {
        own = button.dataset.scale === "own";
        for (const each of choices) each.setAttribute("aria-pressed", String(each === button));
        again();
      });
    }
    new ResizeObserver(again).observe(box);
    return again;
  };
};

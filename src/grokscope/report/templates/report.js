"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const hover = matchMedia("(hover: hover)").matches;
  const hidden = new Map();
  const printing = () => document.documentElement.classList.contains("printing");

  // Colors are named in the plots ("@arm0", "@ink/0.2") and defined in the style sheet.
  const named = (name) => {
    const [, key, opacity] = /^@([a-z]+\d*)(?:\/([\d.]+))?$/.exec(name) ?? [];
    const value = getComputedStyle(document.documentElement).getPropertyValue(`--${key}`).trim();
    if (opacity === undefined) return value;
    const [r, g, b] = channels(value);
    return `rgba(${r}, ${g}, ${b}, ${opacity})`;
  };
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const colored = (value, key = "") => {
    if (Array.isArray(value)) return value.map((item) => colored(item, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, colored(v, k)]));
    }
    return typeof value === "string" && /color$/.test(key) && value[0] === "@" ? named(value) : value;
  };

  // Of the plot of all runs the lines of the rows that are shown, in the colors of their groups.
  let rowsShown = null;
  const symbols = ["circle", "square", "diamond", "triangle-up", "x", "triangle-down", "star", "cross"];
  const chosen = (div, figure) => {
    if (rowsShown === null || !figure.data.some((trace) => trace.legendgroup)) return figure;
    const traces = figure.data.filter((trace) => rowsShown.has(trace.legendgroup));
    return { ...figure, data: traces.map((trace) => {
      const place = rowsShown.get(trace.legendgroup);
      if (place === null) return trace;
      const color = `@arm${place % symbols.length}`;
      return {
        ...trace, line: { ...trace.line, color },
        marker: { ...trace.marker, color, symbol: symbols[place % symbols.length] },
      };
    }) };
  };

  const draw = (div) => {
    const figure = colored(chosen(div, data[div.id]));
    const off = hidden.get(div.id) ?? new Set();
    const shown = (item, target) => (off.has(target) ? { ...item, visible: false } : item);
    const traces = figure.data.map((trace) => shown(trace, trace.meta));
    const layout = figure.layout;
    layout.shapes = layout.shapes.map((shape) => shown(shape, shape.name));
    layout.annotations = layout.annotations.map((note) => shown(note, note.name));
    layout.font.family = getComputedStyle(document.body).fontFamily;
    // A finger that scrolls the page must not zoom the plots it passes over.
    if (touch) layout.dragmode = false;
    // Paper has a width of its own, and the printer does not wait for a plot to follow it.
    if (printing()) layout.width = div.clientWidth;
    Plotly.react(div, traces, layout, {
      responsive: true,
      displaylogo: false,
      displayModeBar: hover ? "hover" : false,
      modeBarButtons: [["toImage", "resetScale2d"]],
    });
  };

  const legend = (button) => {
    button.addEventListener("click", () => {
      const { plot, target } = button.dataset;
      const off = hidden.get(plot) ?? new Set();
      if (!off.delete(target)) off.add(target);
      hidden.set(plot, off);
      button.setAttribute("aria-pressed", String(!off.has(target)));
      draw(document.getElementById(plot));
    });
  };

  // A page that is written anew while a run trains: it loads itself, and what was chosen stays.
  const memory = `grokscope ${location.pathname}`;
  const remembered = () => {
    try {
      return JSON.parse(sessionStorage.getItem(memory)) ?? {};
    } catch {
      return {};
    }
  };
  const title = (id) => document.getElementById(`${id}-title`)?.textContent ?? id;
  const remember = (paused) => {
    const open = [...document.querySelectorAll("details")].map((details) => details.open);
    const off = [...hidden].map(([id, targets]) => [title(id), [...targets]]);
    const state = { scroll: scrollY, open, off, paused };
    try {
      sessionStorage.setItem(memory, JSON.stringify(state));
    } catch {
      // Without storage the page starts as it was written.
    }
  };
  const recall = () => {
    const { open = [], off = [] } = remembered();
    document.querySelectorAll("details").forEach((details, i) => {
      details.open = open[i] ?? details.open;
    });
    const chosen = new Map(off);
    for (const button of document.querySelectorAll("[data-target]")) {
      const { plot, target } = button.dataset;
      if (!chosen.get(title(plot))?.includes(target)) continue;
      hidden.set(plot, (hidden.get(plot) ?? new Set()).add(target));
      button.setAttribute("aria-pressed", "false");
    }
  };
  const follow = (seconds) => {
    const button = document.querySelector("[data-pause]");
    let paused = remembered().paused ?? false;
    const shown = () => {
      button.setAttribute("aria-pressed", String(paused));
      button.textContent = paused ? "Go on" : "Pause";
    };
    button.addEventListener("click", () => {
      paused = !paused;
      shown();
      remember(paused);
    });
    shown();
    setInterval(() => {
      if (paused) return;
      remember(paused);
      location.reload();
    }, 1000 * seconds);
  };

  // The data of a plot as rows, the first of which names the columns.
  const plain = (text) => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
  const rows = ({ data: traces, layout }) => {
    const steps = layout.meta[0] === "step";
    const number = (text) => Number(text.replaceAll(",", ""));
    if (traces[0]?.type === "heatmap") {
      const cells = traces[0].z.flatMap((row, i) =>
        row.map((value, j) => [...traces[0].customdata[i][j].map(number), value]));
      return [layout.meta, ...cells];
    }
    const points = traces.flatMap((trace) => {
      const half = trace.fill ? trace.x.length / 2 : Infinity;
      const end = (i) => (trace.fill ? (i < half ? ", upper end" : ", lower end") : "");
      return trace.x.map((x, i) => [
        plain(trace.name) + end(i), steps ? number(trace.customdata[i]) : x, trace.y[i],
        ...(layout.meta.length > 2 ? [plain(trace.customdata[i])] : []),
      ]);
    });
    return [["series", ...layout.meta], ...points];
  };
  const cell = (value) => {
    const text = String(value ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (figure) => rows(figure).map((row) => row.map(cell).join(",") + "\n").join("");
  const save = (button) => {
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      const name = title(button.dataset.csv).toLowerCase().replace(/[^a-z0-9.]+/g, "-").replace(/^[-.]+|[-.]+$/g, "");
      link.download = `${name || "plot"}.csv`;
      link.href = URL.createObjectURL(new Blob([csv(data[button.dataset.csv])], { type: "text/csv" }));
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  };

  const decoded = (text) => new Int8Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

  const paint = (canvas, pixels, start, row) => {
    const depth = row.channels;
    const bright = row.signed ? (value) => 128 + value : (value) => 2 * value;
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const [paper, ink, negative] = ["@paper", "@ink", "@negative"].map((name) => channels(named(name)));
    for (let i = 0; i < canvas.width * canvas.height; i++) {
      for (let c = 0; c < 3; c++) {
        const value = pixels[start + i * depth + (depth === 3 ? c : 0)];
        const end = value < 0 ? negative : ink;
        image.data[4 * i + c] =
          depth === 3 ? bright(value) : paper[c] + ((end[c] - paper[c]) * Math.abs(value)) / 127;
      }
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  };

  // A slider over training steps with a button that plays them; gives what draws the step again.
  const player = (box, steps, show) => {
    const slider = box.querySelector("input");
    const output = box.querySelector("output");
    const play = box.querySelector(".play");
    const draw = () => {
      const place = Number(slider.value);
      const step = steps[place].toLocaleString("en");
      output.textContent = step;
      slider.setAttribute("aria-valuetext", `step ${step}`);
      show(place);
    };
    let timer = null;
    const stop = () => {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
    };
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      if (slider.value === slider.max) slider.value = 0;
      play.textContent = "Pause";
      timer = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        draw();
        if (slider.value === slider.max) stop();
      }, steps.length > 30 ? 180 : 450);
      draw();
    });
    slider.addEventListener("input", () => {
      stop();
      draw();
    });
    draw();
    return draw;
  };

  const pictures = (box) => {
    const content = data[box.dataset.pictures];
    const rows = [...box.querySelectorAll("[data-row]")].map((element) => {
      const row = element.dataset.row === "given" ? content.given : content.rows[element.dataset.row];
      return { element, row, pixels: decoded(row.pixels), canvases: element.querySelectorAll("canvas") };
    });
    return player(box, content.steps, (place) => {
      for (const { element, row, pixels, canvases } of rows) {
        const size = row.height * row.width * row.channels;
        const frame = row.frames ? row.frames[place] : 0;
        canvases.forEach((canvas, i) => {
          paint(canvas, pixels, (frame * canvases.length + i) * size, row);
        });
        element.querySelector(".metrics-at").textContent = row.metrics ? row.metrics[place] : "";
      }
    });
  };

  const plots = [...document.querySelectorAll(".plot")];
  const { refresh } = document.documentElement.dataset;
  if (refresh) recall();
  // Of a page with very many plots only those are drawn that come into sight.
  if (plots.length > 40) {
    const sight = new IntersectionObserver((entries) => {
      for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
        sight.unobserve(target);
        draw(target);
      }
    }, { rootMargin: "600px" });
    plots.forEach((div) => sight.observe(div));
  } else {
    plots.forEach(draw);
  }
  document.querySelectorAll(".runs").forEach((box) => runsTable(box, {
    count: symbols.length,
    show: (rows) => {
      rowsShown = rows;
      const grouped = [...rows.values()].some((place) => place !== null);
      for (const div of plots.filter((plot) => data[plot.id].data.some((t) => t.legendgroup))) {
        div.closest("figure").classList.toggle("grouped", grouped);
        draw(div);
      }
    },
  }));
  document.querySelectorAll("[data-target]").forEach(legend);
  document.querySelectorAll("[data-csv]").forEach(save);
  const shows = [...document.querySelectorAll("[data-pictures]")].map(pictures);
  const regions = regionsReader({ data, named, channels, paint, player });
  const later = [...document.querySelectorAll("[data-regions]")].map(async (box) => {
    if (typeof DecompressionStream === "undefined") {
      box.textContent = "These pictures need a browser that can decompress data, of 2023 or later.";
      return;
    }
    shows.push(await regions(box));
  });
  const redraw = () => {
    plots.filter((div) => printing() || div.data).forEach(draw);
    shows.forEach((show) => show());
  };
  dark.addEventListener("change", redraw);
  let folded = [];
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("printing");
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
    redraw();
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("printing");
    for (const details of folded) details.open = false;
    redraw();
    plots.forEach((div) => Plotly.Plots.resize(div));
  });
  Promise.all(later).finally(() => {
    if (refresh) {
      scrollTo(0, remembered().scroll ?? 0);
      follow(Number(refresh));
    }
    document.documentElement.dataset.ready = "yes";
  });
})();

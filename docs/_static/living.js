// The living pages: affnb's renderer and models run in the page, by onnxruntime-web.
//
// An explorer is an element of the classes `living` and `living-NAME`. What the page holds in it
// (a picture and a sentence) stands until the explorer works, and where it cannot work. All files
// lie in _static/living, written by docs/build.py; nothing is fetched from elsewhere or sent.
"use strict";
(() => {
  const FOLDER = new URL("living/", document.currentScript.src);
  const MODELS = ["separate", "joint", "progressive"];
  const TASKS = ["AU", "EXPR", "VA"];
  const SIDE = 48; // pixels of a face, as the models see it
  const LARGE = 192; // and as the reader does
  const RUNTIME = ["ort.wasm.min.js", "ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.mjs"];

  // ------------------------------------------------------------------ files and workers
  function addScript(name) {
    return new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = new URL(name, FOLDER);
      script.onload = done;
      script.onerror = () => failed(new Error(`${name} is not there`));
      document.head.append(script);
    });
  }

  function once(make) {
    const made = new Map();
    return name => {
      if (!made.has(name)) made.set(name, make(name));
      return made.get(name);
    };
  }

  // a script that holds a packed file: all that a page may load that was opened without a server
  const readFile = once(async name => {
    await addScript(`${name}.js`);
    const packed = Uint8Array.from(atob(window.affnbFiles[name]), letter => letter.charCodeAt(0));
    delete window.affnbFiles[name];
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(unpacked).arrayBuffer());
  });

  const knowledge = once(async () => JSON.parse(new TextDecoder().decode(await readFile("living.json"))));

  // what a worker does: it holds sessions of onnxruntime-web, and runs them
  function work() {
    const sessions = {};
    const tasks = {
      begin({ wasm, glue }) {
        ort.env.wasm.numThreads = 1;
        ort.env.wasm.wasmBinary = wasm.buffer;
        const script = new Blob([glue], { type: "text/javascript" });
        ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(script) };
      },
      async load({ name, bytes }) {
        sessions[name] = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
      },
      async run({ name, inputs }) {
        const given = {};
        for (const [part, { data, dims }] of Object.entries(inputs)) given[part] = new ort.Tensor("float32", data, dims);
        const outputs = await sessions[name].run(given);
        return Object.fromEntries(Object.entries(outputs).map(([part, { data, dims }]) => [part, { data, dims }]));
      },
    };
    let turn = Promise.resolve();
    onmessage = ({ data: { id, task, ...words } }) => {
      turn = turn.then(() => tasks[task](words)).then(
        answer => postMessage({ id, answer }), error => postMessage({ id, error: String(error) }));
    };
  }

  // one worker draws and another asks, so that the next face is drawn while the last is looked at
  const worker = once(async () => {
    if (typeof WebAssembly === "undefined") throw new Error("it has no WebAssembly");
    const [library, wasm, glue] = await Promise.all(RUNTIME.map(readFile));
    const script = new Blob([library, `\n(${work})();`], { type: "text/javascript" });
    const hired = new Worker(URL.createObjectURL(script));
    const waiting = new Map();
    hired.onmessage = ({ data: { id, answer, error } }) => {
      const { done, failed } = waiting.get(id);
      waiting.delete(id);
      if (error) failed(new Error(error));
      else done(answer);
    };
    hired.onerror = event => waiting.forEach(({ failed }) => failed(new Error(event.message)));
    let id = 0;
    const ask = (task, words) => new Promise((done, failed) => {
      waiting.set(++id, { done, failed });
      hired.postMessage({ id, task, ...words });
    });
    await ask("begin", { wasm, glue });
    return ask;
  });

  // a graph, ready to run: inputs by name, {data, dims} -> outputs by name
  const graph = once(async name => {
    const ask = await worker(name.startsWith("face") ? "draws" : "looks");
    await ask("load", { name, bytes: await readFile(`${name}.onnx`) });
    return inputs => ask("run", { name, inputs });
  });

  // ------------------------------------------------------------------ drawing and asking
  const asRow = values => ({ data: Float32Array.from(values), dims: [1, values.length] });

  // a face: {person, units, affect, view}, each a list of numbers -> an ImageData
  async function drawFace(face, size) {
    const inputs = {};
    for (const part of ["person", "units", "affect", "view"]) inputs[part] = asRow(face[part]);
    const draw = await graph(`face-${size}`);
    const drawn = (await draw(inputs)).face.data;
    const picture = new ImageData(size, size);
    const plane = size * size;
    for (let place = 0; place < plane; place++) {
      for (let colour = 0; colour < 3; colour++) {
        picture.data[4 * place + colour] = Math.round(255 * drawn[colour * plane + place]);
      }
      picture.data[4 * place + 3] = 255;
    }
    return picture;
  }

  // pictures of SIDE x SIDE pixels, ImageData -> what the encoders say of all of them
  async function askFrames(pictures) {
    const plane = SIDE * SIDE;
    const pixels = new Float32Array(pictures.length * 3 * plane);
    pictures.forEach((picture, number) => {
      for (let place = 0; place < plane; place++) {
        for (let colour = 0; colour < 3; colour++) {
          pixels[(number * 3 + colour) * plane + place] = picture.data[4 * place + colour];
        }
      }
    });
    const look = await graph("frames");
    return look({ pixels: { data: pixels, dims: [pictures.length, 3, SIDE, SIDE] } });
  }

  // windows of `length` frames, their features one after another -> AU, EXPR and VA of each frame
  async function askWindows(features, length, sizes) {
    const count = features.length / (length * sizes[0] * sizes[1]);
    const look = await graph("windows");
    return look({ features: { data: features, dims: [count, length, ...sizes] } });
  }

  function rowOf(tensor, number) {
    const width = tensor.dims[tensor.dims.length - 1];
    return Array.from(tensor.data.slice(number * width, (number + 1) * width));
  }

  // probabilities at a temperature, as affnb.engine.calibration.apply_temperature has them
  function calibrate(answers, temperature) {
    const power = task => 1 / (temperature[task] ?? 1);
    const weights = answers.EXPR.map(p => p ** power("EXPR"));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return {
      ...answers,
      AU: answers.AU.map(p => 1 / (1 + ((1 - p) / p) ** power("AU"))),
      EXPR: weights.map(weight => weight / total),
    };
  }

  const byTask = (said, number, prefix = "") =>
    Object.fromEntries(TASKS.map(task => [task, rowOf(said[prefix + task], number)]));

  // a picture -> {separate, joint, progressive}, each {AU, EXPR, VA}
  async function askAll(picture) {
    const said = await askFrames([picture]);
    const features = said.features;
    const along = await askWindows(features.data, 1, features.dims.slice(1));
    return {
      separate: byTask(said, 0),
      joint: byTask(said, 0, "joint "),
      progressive: calibrate(byTask(along, 0), (await knowledge()).temperature),
    };
  }

  // of many calls while the work is done, only the last one is answered
  function latestOnly(task, failed) {
    let wanted = false;
    let working = null;
    async function go() {
      try {
        while (wanted) {
          wanted = false;
          await task();
        }
      } catch (error) {
        failed(error);
      }
      working = null;
    }
    return () => {
      wanted = true;
      working ??= go();
      return working;
    };
  }

  // ------------------------------------------------------------------ parts of a page
  let names = 0;
  const freshName = () => `living-${++names}`;

  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "path", "line", "text"].includes(tag);
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function makeSlider(label, { low, high, step = 0.01, value = 0, show = x => x.toFixed(2) }, moved) {
    const id = freshName();
    const input = make("input", { type: "range", id, min: low, max: high, step, value });
    const output = make("output", { for: id }, show(value));
    input.addEventListener("input", () => {
      output.value = show(+input.value);
      moved();
    });
    return {
      element: make("div", { class: "living-slider" }, make("label", { for: id }, label), input, output),
      get value() { return +input.value; },
      set value(next) {
        input.value = next;
        output.value = show(+input.value);
      },
    };
  }

  function makeChoice(label, options, moved) {
    const id = freshName();
    const select = make("select", { id }, ...options.map((text, k) => make("option", { value: k }, text)));
    select.addEventListener("change", moved);
    return {
      element: make("div", { class: "living-choice" }, make("label", { for: id }, label), select),
      get value() { return +select.value; },
      set value(next) { select.value = next; },
    };
  }

  function makeButton(text, pressed) {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", pressed);
    return button;
  }

  function makeCanvas(size, text) {
    return make("canvas", { width: size, height: size, role: "img", "aria-label": text });
  }

  // a picture of any size on a canvas of another
  function show(canvas, picture) {
    const small = make("canvas", { width: picture.width, height: picture.height });
    small.getContext("2d").putImageData(picture, 0, 0);
    const brush = canvas.getContext("2d");
    brush.imageSmoothingQuality = "high";
    brush.drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  // every answer that a model gives: {task, index, name}; `only` names those that are wanted
  function answerRows(known, only = null) {
    const rows = [
      ...known.units.map(([name, meaning], index) => ({ task: "AU", index, name, meaning })),
      ...known.expressions.map((name, index) => ({ task: "EXPR", index, name })),
      ...known.affect.map((name, index) => ({ task: "VA", index, name })),
    ];
    return only ? rows.filter(row => only.includes(row.name)) : rows;
  }

  // a table of answers with a bar behind each number; `fill` sets a column
  function makeTable(caption, rows, columns) {
    const head = make("tr", {}, make("th", { scope: "col" }, "answer"),
      ...columns.map(name => make("th", { scope: "col" }, name)));
    const cells = rows.map(() => columns.map(name => make("td", { "data-column": name })));
    const lines = rows.map((row, k) => {
      const meaning = row.meaning ? [make("span", { class: "living-meaning" }, ` ${row.meaning}`)] : [];
      return make("tr", {}, make("th", { scope: "row" }, row.name, ...meaning), ...cells[k]);
    });
    const element = make("table", { class: "living-table" }, make("caption", {}, caption),
      make("thead", {}, head), make("tbody", {}, ...lines));
    return {
      element,
      fill(column, answers, signed = false) {
        const place = columns.indexOf(column);
        rows.forEach((row, k) => {
          const value = answers[row.task] ? answers[row.task][row.index] : null;
          const cell = cells[k][place];
          if (value === null || value === undefined) {
            cell.textContent = "–";
            cell.style.setProperty("--end", "0%");
            return;
          }
          const both = row.task === "VA" || signed;
          const [from, to] = both ? [0.5, 0.5 + value / 2] : [0, value];
          const start = Math.max(0, Math.min(from, to)) * 100;
          const width = Math.min(1, Math.abs(to - from)) * 100;
          cell.textContent = both ? (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(2) : value.toFixed(2);
          cell.style.setProperty("--start", `${start}%`);
          cell.style.setProperty("--end", `${start + width}%`);
        });
      },
    };
  }

  function likeliest(known, answers) {
    const best = answers.EXPR.indexOf(Math.max(...answers.EXPR));
    return `${known.expressions[best]} (${answers.EXPR[best].toFixed(2)})`;
  }

  // words for who does not see the picture, said when the sliders rest
  function makeSpeaker() {
    const element = make("p", { class: "living-said", role: "status" });
    let timer = 0;
    return {
      element,
      say(text) {
        clearTimeout(timer);
        timer = setTimeout(() => { element.textContent = text; }, 250);
      },
    };
  }

  // lines over the same places: [{name, values, style}], values in [low, high]; null is a gap
  function makeChart(label, low, high) {
    const width = 480;
    const height = 240;
    const edge = { left: 44, right: 16, top: 10, bottom: 30 };
    const element = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "living-chart" });
    const x = share => edge.left + share * (width - edge.left - edge.right);
    const y = value => edge.top + (1 - (value - low) / (high - low)) * (height - edge.top - edge.bottom);
    return {
      element,
      draw(lines, marker, axis) {
        element.replaceChildren();
        for (const value of [low, (low + high) / 2, high]) {
          element.append(
            make("line", { x1: x(0), x2: x(1), y1: y(value), y2: y(value), class: "grid" }),
            make("text", { x: edge.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
        }
        axis.ticks.forEach(([share, text]) => element.append(
          make("text", { x: x(share), y: height - 12, "text-anchor": "middle" }, text)));
        element.append(make("text", { x: x(1), y: height, "text-anchor": "end" }, axis.name));
        element.append(make("line", { x1: x(marker), x2: x(marker), y1: y(low), y2: y(high), class: "marker" }));
        for (const { values, style } of lines) {
          const last = values.length - 1;
          let path = "";
          values.forEach((value, place) => {
            if (value === null) return;
            const joined = place > 0 && values[place - 1] !== null;
            path += `${joined ? "L" : "M"}${x(place / last).toFixed(1)} ${y(value).toFixed(1)}`;
          });
          element.append(make("path", { d: path, class: `line ${style}` }));
        }
      },
    };
  }

  const legend = lines => make("p", { class: "living-legend" },
    ...lines.map(([style, text]) => make("span", { class: style }, text)));

  // ------------------------------------------------------------------ the face
  const centred = known => known.views.map(view => view.centre);
  const neutral = known => ({
    person: known.people[0],
    units: known.units.map(() => 0),
    affect: [0.1, 0.2],
    view: centred(known),
  });

  function faceExplorer(element, known, failed) {
    const brief = element.classList.contains("living-brief");
    const wanted = ["AU1", "AU4", "AU12", "AU25", "AU26"];
    const canvas = makeCanvas(LARGE, "a drawn face");
    const speaker = makeSpeaker();
    const units = known.units.map(([name, meaning]) =>
      makeSlider(`${name} ${meaning}`, { low: 0, high: 1 }, changed));
    const affect = known.affect.map((name, k) =>
      makeSlider(name, { low: -1, high: 1, value: neutral(known).affect[k] }, changed));
    const views = known.views.map(view => view.label
      ? makeSlider(view.label, { low: view.low.toFixed(3), high: view.high.toFixed(3), value: view.centre }, changed)
      : { value: view.centre });
    const person = makeChoice("person", known.people.map((_, k) => `person ${k + 1}`), changed);
    const rows = answerRows(known, brief ? [...wanted, "Happiness", "Sadness", "Surprise", "Anger", "valence"] : null);
    const table = makeTable("What the models say of this face, and what it was drawn with", rows, ["truth", ...MODELS]);
    function set(face) {
      face.units.forEach((value, k) => { units[k].value = value; });
      face.affect.forEach((value, k) => { affect[k].value = value; });
      changed();
    }
    const buttons = [{ name: "neutral", ...neutral(known) }, ...known.faces].map(
      face => makeButton(face.name, () => set(face)));
    let rest = 0;

    const face = () => ({
      person: known.people[person.value],
      units: units.map(slider => slider.value),
      affect: affect.map(slider => slider.value),
      view: views.map(slider => slider.value),
    });
    let drawn = null;
    const look = latestOnly(async () => {
      const { now, picture } = drawn;
      const said = await askAll(picture);
      table.fill("truth", { AU: now.units, VA: now.affect });
      for (const model of MODELS) table.fill(model, said[model]);
      const strong = known.units.filter((_, k) => now.units[k] >= known.active).map(([name]) => name);
      canvas.setAttribute("aria-label", `a drawn face, ${strong.length ? `with ${strong.join(", ")}` : "at rest"}`);
      speaker.say(`The progressive model says ${likeliest(known, said.progressive)}; the joint model ${
        likeliest(known, said.joint)}; the model of expressions alone ${likeliest(known, said.separate)}.`);
      element.affnb = { picture, answers: said, count: (element.affnb?.count ?? 0) + 1 };
    }, failed);
    const draw = latestOnly(async () => {
      const now = face();
      const picture = await drawFace(now, SIDE);
      drawn = { now, picture };
      show(canvas, picture);
      look();
    }, failed);
    const refine = latestOnly(async () => show(canvas, await drawFace(face(), LARGE)), failed);
    function changed() {
      draw();
      clearTimeout(rest);
      rest = setTimeout(refine, 200);
    }

    const shown = brief ? units.filter((_, k) => wanted.includes(known.units[k][0])) : units;
    const more = brief ? [affect[0]] : [...affect, ...views.filter(slider => slider.element)];
    const left = make("div", { class: "living-left" }, canvas, person.element,
      make("div", { class: "living-buttons", role: "group", "aria-label": "faces to begin with" }, ...buttons));
    const middle = make("div", { class: "living-sliders" }, ...[...shown, ...more].map(slider => slider.element));
    element.append(make("div", { class: "living-columns" }, left, middle, table.element), speaker.element);
    set(known.faces.find(one => one.name === "Happiness"));
    return draw().then(look);
  }

  // ------------------------------------------------------------------ where it looks
  function occlusionExplorer(element, known, failed) {
    const canvas = makeCanvas(LARGE, "a drawn face, of which a square is covered");
    const speaker = makeSpeaker();
    const size = makeSlider("size of the square", { low: 4, high: 24, step: 1, value: 12, show: x => `${x}` }, covered);
    const across = makeSlider("from the left", { low: 0, high: SIDE, step: 1, value: 18, show: x => `${x}` }, covered);
    const down = makeSlider("from above", { low: 0, high: SIDE, step: 1, value: 30, show: x => `${x}` }, covered);
    const person = makeChoice("person", known.people.map((_, k) => `person ${k + 1}`), redrawn);
    const expression = makeChoice("face", known.faces.map(face => face.name), redrawn);
    const model = makeChoice("model", MODELS, covered);
    const table = makeTable("What the model says of the whole face and of the covered one", answerRows(known), ["whole", "covered", "change"]);
    expression.value = known.faces.findIndex(face => face.name === "Happiness");
    model.value = MODELS.indexOf("joint");
    let whole = null;

    function square() {
      const side = Math.min(size.value, SIDE);
      const left = Math.min(across.value, SIDE - side);
      return { side, left, top: Math.min(down.value, SIDE - side) };
    }
    function paint() {
      const { side, left, top } = square();
      const scale = LARGE / SIDE;
      show(canvas, whole.large);
      const brush = canvas.getContext("2d");
      brush.fillStyle = "rgb(128, 128, 128)";
      brush.fillRect(left * scale, top * scale, side * scale, side * scale);
    }
    const ask = latestOnly(async () => {
      if (!whole) return;
      const { side, left, top } = square();
      const picture = new ImageData(new Uint8ClampedArray(whole.picture.data), SIDE, SIDE);
      for (let row = top; row < top + side; row++) {
        for (let column = left; column < left + side; column++) {
          picture.data.fill(128, 4 * (row * SIDE + column), 4 * (row * SIDE + column) + 3);
        }
      }
      const said = await askAll(picture);
      const name = MODELS[model.value];
      const change = {};
      for (const task of TASKS) change[task] = said[name][task].map((value, k) => value - whole.answers[name][task][k]);
      table.fill("whole", whole.answers[name]);
      table.fill("covered", said[name]);
      table.fill("change", change, true);
      const all = answerRows(known).map(row => ({ ...row, by: change[row.task][row.index] }));
      const most = all.reduce((one, other) => Math.abs(other.by) > Math.abs(one.by) ? other : one);
      speaker.say(`The square changes ${most.name} most, by ${most.by.toFixed(2)}.`);
      element.affnb = { picture, answers: said, whole: whole.answers, count: (element.affnb?.count ?? 0) + 1 };
    }, failed);
    function covered() {
      if (!whole) return;
      paint();
      ask();
    }
    const draw = latestOnly(async () => {
      const given = known.faces[expression.value];
      const face = { ...neutral(known), person: known.people[person.value], units: given.units, affect: given.affect };
      const picture = await drawFace(face, SIDE);
      whole = { picture, answers: await askAll(picture), large: await drawFace(face, LARGE) };
      covered();
    }, failed);
    function redrawn() { draw(); }
    function follow(event) {
      if (event.type === "pointermove" && event.pointerType !== "mouse" && !event.buttons) return;
      const frame = canvas.getBoundingClientRect();
      const place = share => Math.round(share * SIDE - size.value / 2);
      across.value = Math.max(0, place((event.clientX - frame.left) / frame.width));
      down.value = Math.max(0, place((event.clientY - frame.top) / frame.height));
      covered();
    }
    for (const kind of ["pointerdown", "pointermove"]) canvas.addEventListener(kind, follow);

    const left = make("div", { class: "living-left" }, canvas, expression.element, person.element, model.element);
    const middle = make("div", { class: "living-sliders" }, across.element, down.element, size.element);
    element.append(make("div", { class: "living-columns" }, left, middle, table.element), speaker.element);
    return draw();
  }

  // ------------------------------------------------------------------ time
  function concordance(one, other) {
    const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
    const [a, b] = [mean(one), mean(other)];
    const spread = (values, middle) => mean(values.map(value => (value - middle) ** 2));
    const together = mean(one.map((value, k) => (value - a) * (other[k] - b)));
    return 2 * together / (spread(one, a) + spread(other, b) + (a - b) ** 2);
  }

  // the windows of affnb.engine.batches.make_windows: [first frame, one after the last]
  function windowsOf(frames, length, stride) {
    const count = 1 + Math.max(0, Math.ceil((frames - length) / stride));
    return Array.from({ length: count }, (_, k) => [k * stride, Math.min(frames, k * stride + length)]);
  }

  // the mean answer of each frame over the windows that hold it, as merge_windows has it
  async function answerClip(features, frames, window) {
    const length = Math.min(window, frames);
    const width = features.dims[1] * features.dims[2];
    const sums = Object.fromEntries(TASKS.map(task => [task, []]));
    const held = new Array(frames).fill(0);
    for (const [first, end] of windowsOf(frames, length, Math.min(10, length))) {
      const part = features.data.slice(first * width, end * width);
      const said = await askWindows(part, end - first, features.dims.slice(1));
      for (let frame = first; frame < end; frame++) {
        held[frame]++;
        for (const task of TASKS) {
          const row = rowOf(said[task], frame - first);
          sums[task][frame] = row.map((value, k) => value + (sums[task][frame]?.[k] ?? 0));
        }
      }
    }
    const { temperature } = await knowledge();
    const frame = (_, k) => calibrate(
      Object.fromEntries(TASKS.map(task => [task, sums[task][k].map(value => value / held[k])])), temperature);
    const answers = held.map(frame);
    return Object.fromEntries(TASKS.map(task => [task, answers.map(one => one[task])]));
  }

  function timeExplorer(element, known, failed) {
    const { clip } = known;
    const bytes = Uint8Array.from(atob(clip.pixels), letter => letter.charCodeAt(0));
    const pictures = Array.from({ length: clip.frames }, (_, frame) => {
      const picture = new ImageData(SIDE, SIDE);
      for (let place = 0; place < SIDE * SIDE; place++) {
        for (let colour = 0; colour < 3; colour++) {
          picture.data[4 * place + colour] = bytes[(frame * SIDE * SIDE + place) * 3 + colour];
        }
        picture.data[4 * place + 3] = 255;
      }
      return picture;
    });
    const rows = answerRows(known).filter(row => row.task !== "EXPR");
    const canvas = makeCanvas(LARGE, "a frame of the video");
    const inARow = clip.frames / 2;
    const strip = make("canvas", { width: inARow * SIDE, height: 2 * SIDE, class: "living-strip", role: "img", "aria-label": `the ${clip.frames} frames of the video, in two rows` });
    const speaker = makeSpeaker();
    const asked = makeChoice("answer", rows.map(row => row.meaning ? `${row.name} ${row.meaning}` : row.name), changed);
    const window_ = makeSlider("window, in frames", { low: 1, high: 30, step: 1, value: 30, show: x => `${x}` }, changed);
    const frame = makeSlider("frame", { low: 1, high: clip.frames, step: 1, value: 1, show: x => `${x}` }, changed);
    const chart = makeChart("label and prediction, frame by frame", -1, 1);
    const unitChart = makeChart("label and probability, frame by frame", 0, 1);
    const place = make("div", {});
    let features = null;
    let single = null;
    asked.value = rows.findIndex(row => row.name === "valence");
    pictures.forEach((picture, k) => {
      const small = make("canvas", { width: SIDE, height: SIDE });
      small.getContext("2d").putImageData(picture, 0, 0);
      strip.getContext("2d").drawImage(small, (k % inARow) * SIDE, Math.floor(k / inARow) * SIDE);
    });

    const answer = latestOnly(async () => {
      if (!features) {
        features = (await askFrames(pictures)).features;
        single = await answerClip(features, clip.frames, 1);
      }
      const row = rows[asked.value];
      const said = await answerClip(features, clip.frames, window_.value);
      const values = answers => answers[row.task].map(each => each[row.index]);
      const truth = values(clip);
      const lines = [
        { values: truth, style: "truth" },
        { values: values(single), style: "single" },
        { values: values(said), style: "progressive" },
      ];
      const ticks = [1, 10, 20, 30, 40].filter(n => n <= clip.frames).map(n => [(n - 1) / (clip.frames - 1), String(n)]);
      const used = row.task === "VA" ? chart : unitChart;
      used.draw(lines, (frame.value - 1) / (clip.frames - 1), { ticks, name: "frame" });
      place.replaceChildren(used.element);
      show(canvas, pictures[frame.value - 1]);
      const right = answers => values(answers).filter((value, k) => (value >= 0.5) === (truth[k] > 0.5)).length / clip.frames;
      const [now, before] = row.task === "VA"
        ? [said, single].map(answers => `CCC ${concordance(values(answers), truth).toFixed(2)}`)
        : [said, single].map(answers => `${(100 * right(answers)).toFixed(0)} % of the frames right`);
      speaker.say(`${row.name}: ${now} with a window of ${window_.value}, ${before} frame by frame. At frame ${
        frame.value} the label is ${truth[frame.value - 1].toFixed(2)}, the answer ${values(said)[frame.value - 1].toFixed(2)}.`);
      element.affnb = { pictures, answers: said, window: window_.value, count: (element.affnb?.count ?? 0) + 1 };
    }, failed);
    function changed() { answer(); }

    const left = make("div", { class: "living-left" }, canvas, asked.element);
    const right = make("div", { class: "living-wide" }, strip, frame.element, window_.element, place,
      legend([["truth", "label"], ["progressive", "progressive model, this window"], ["single", "one frame at a time"]]));
    element.append(make("div", { class: "living-columns" }, left, right), speaker.element);
    return answer();
  }

  // ------------------------------------------------------------------ thresholds
  function thresholdExplorer(element, known) {
    const { thresholds, dev, validation } = known.curves;
    const last = thresholds.length - 1;
    const middle = thresholds.indexOf(0.5);
    const speaker = makeSpeaker();
    const unit = makeChoice("action unit", known.units.map(([name, meaning]) => `${name} ${meaning}`), changed);
    const slider = makeSlider("threshold", { low: 0, high: last, step: 1, value: middle, show: k => thresholds[k].toFixed(3) }, changed);
    const chart = makeChart("F1 at each threshold, on dev and on validation", 0, 1);
    const table = make("table", { class: "living-table" });
    const best = makeButton("the best on dev", () => {
      const scores = dev.map(row => row[unit.value]);
      slider.value = scores.indexOf(Math.max(...scores));
      changed();
    });

    function changed() {
      const curve = part => part.map(row => row[unit.value]);
      const lines = [{ values: curve(validation), style: "progressive" }, { values: curve(dev), style: "joint" }];
      const ticks = [0.05, 0.25, 0.5, 0.75, 0.95].map(value => [thresholds.indexOf(value) / last, String(value)]);
      chart.draw(lines, slider.value / last, { ticks, name: "threshold" });
      const line = (name, part) => {
        const [now, before] = [curve(part)[slider.value], curve(part)[middle]];
        const gain = (now - before >= 0 ? "+" : "−") + Math.abs(now - before).toFixed(3);
        return make("tr", {}, make("th", { scope: "row" }, name), ...[now.toFixed(3), before.toFixed(3), gain].map(text => make("td", {}, text)));
      };
      const heads = ["", "F1 at this threshold", "F1 at .5", "gain"].map(text => make("th", { scope: "col" }, text || "people"));
      table.replaceChildren(make("caption", {}, known.units[unit.value][0]), make("thead", {}, make("tr", {}, ...heads)),
        make("tbody", {}, line("dev, where it is chosen", dev), line("validation, where it is reported", validation)));
      const gain = part => (curve(part)[slider.value] - curve(part)[middle]).toFixed(3);
      speaker.say(`Against a threshold of .5, F1 changes by ${gain(dev)} on dev and by ${gain(validation)} on validation.`);
    }
    const left = make("div", { class: "living-sliders" }, unit.element, slider.element, best);
    const right = make("div", { class: "living-wide" }, chart.element,
      legend([["joint", "dev: here it is chosen"], ["progressive", "validation: here it is reported"]]));
    element.append(make("div", { class: "living-columns" }, left, right), table, speaker.element);
    changed();
    return Promise.resolve();
  }

  // ------------------------------------------------------------------ a photograph
  function photoExplorer(element, known, failed) {
    const canvas = makeCanvas(LARGE, "the part of the photograph that the models see");
    const speaker = makeSpeaker();
    const id = freshName();
    const file = make("input", { type: "file", accept: "image/*", id });
    const zoom = makeSlider("zoom", { low: 1, high: 8, value: 1.5 }, changed);
    const across = makeSlider("left and right", { low: 0, high: 1, value: 0.5 }, changed);
    const down = makeSlider("up and down", { low: 0, high: 1, value: 0.5 }, changed);
    const table = makeTable("What the models say; they have seen drawn faces only", answerRows(known), MODELS);
    const video = make("video", { playsinline: "", muted: "" });
    let source = null; // a picture, or the camera's video
    let stream = null;

    const sizeOf = thing => [thing.videoWidth || thing.width, thing.videoHeight || thing.height];
    function cut(size) {
      const [width, height] = sizeOf(source);
      const side = Math.min(width, height) / zoom.value;
      const small = make("canvas", { width: size, height: size });
      const brush = small.getContext("2d");
      brush.imageSmoothingQuality = "high";
      brush.drawImage(source, across.value * (width - side), down.value * (height - side), side, side, 0, 0, size, size);
      return brush.getImageData(0, 0, size, size);
    }
    const ask = latestOnly(async () => {
      if (!source || !sizeOf(source)[0]) return;
      const picture = cut(SIDE);
      const said = await askAll(picture);
      show(canvas, cut(LARGE));
      for (const model of MODELS) table.fill(model, said[model]);
      speaker.say(`The progressive model says ${likeliest(known, said.progressive)}.`);
      element.affnb = { picture, answers: said, count: (element.affnb?.count ?? 0) + 1 };
    }, failed);
    function changed() { ask(); }
    function tick() {
      if (!stream) return;
      ask();
      setTimeout(tick, 100);
    }
    file.addEventListener("change", async () => {
      try {
        stop();
        source = await createImageBitmap(file.files[0]);
        changed();
      } catch (error) {
        speaker.say("This file is no picture that the browser can read. Choose a JPEG or PNG file.");
      }
    });
    function stop() {
      stream?.getTracks().forEach(track => track.stop());
      stream = null;
      camera.textContent = "use the camera";
    }
    const camera = makeButton("use the camera", async () => {
      if (stream) return stop();
      try {
        stream = await navigator.mediaDevices.getUserMedia({ video: true });
        video.srcObject = stream;
        await video.play();
        source = video;
        camera.textContent = "stop the camera";
        tick();
      } catch (error) {
        stop();
        speaker.say("The browser gives no camera to this page.");
      }
    });
    camera.hidden = !navigator.mediaDevices?.getUserMedia;
    const left = make("div", { class: "living-left" }, canvas,
      make("div", { class: "living-choice" }, make("label", { for: id }, "photograph"), file), camera);
    const middle = make("div", { class: "living-sliders" }, zoom.element, across.element, down.element);
    element.append(make("div", { class: "living-columns" }, left, middle, table.element), speaker.element);
    return Promise.resolve();
  }

  // ------------------------------------------------------------------ beginning
  const EXPLORERS = {
    face: faceExplorer,
    occlusion: occlusionExplorer,
    time: timeExplorer,
    threshold: thresholdExplorer,
    photo: photoExplorer,
  };

  async function begin(element) {
    const kind = Object.keys(EXPLORERS).find(name => element.classList.contains(`living-${name}`));
    const instead = make("div", { class: "living-instead" }, ...element.childNodes);
    const status = make("p", { class: "living-said", role: "status" }, "The models are loading (about 10 MB, once).");
    const brief = element.classList.contains("living-brief") ? " living-brief" : "";
    const explorer = make("div", { class: `living-explorer${brief}` });
    element.replaceChildren(status, instead);
    const failed = error => {
      explorer.remove();
      element.append(instead);
      status.textContent = `This browser cannot run the models (${error.message}). A picture stands in their place.`;
      element.prepend(status);
      element.classList.add("living-failed");
    };
    try {
      const known = await knowledge();
      if (kind !== "threshold") await worker("looks");
      element.append(explorer);
      explorer.hidden = true;
      await EXPLORERS[kind](explorer, known, failed);
      if (element.classList.contains("living-failed")) return;
      explorer.hidden = false;
      instead.remove();
      status.remove();
      element.classList.add("living-ready");
    } catch (error) {
      failed(error);
    }
  }

  // words first: an explorer begins when the page has loaded and its place is near the screen; a
  // reader who saves data is asked
  function wait(element) {
    if (navigator.connection?.saveData) {
      const button = makeButton("Run it in this page (loads about 10 MB)", () => {
        button.remove();
        begin(element);
      });
      element.prepend(button);
      return;
    }
    const observer = new IntersectionObserver(entries => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      observer.disconnect();
      begin(element);
    }, { rootMargin: "200px" });
    observer.observe(element);
  }

  window.addEventListener("load", () => document.querySelectorAll(".living").forEach(wait));
})();

// The panels: one function for each kind of model. What the server sends is only ever inserted as text.

const COMPLETIONS = 20;
const FINE = 10; // the sketch is drawn this many times as large, and averaged
const LEAST_RATE = 8000; // browsers refuse sound below 3,000 samples per second, so slower sound repeats each sample
const MOST_BITS = 16; // the cost at which a word is as red as it gets

/** A copy of a template's panel, with what all panels do: one request at a time, Stop, errors, the sliders' numbers. */
function panel(name, model) {
  const section = document.importNode(document.getElementById(`${name}-panel`).content, true).firstElementChild;
  const find = (what) => section.querySelector(what);
  find("h2").textContent = model.id;
  for (const slider of section.querySelectorAll("input[type=range]")) {
    const output = slider.parentElement.querySelector("output");
    slider.addEventListener("input", () => (output.textContent = slider.value));
  }
  let running = null;
  const stop = () => running?.abort();
  find(".stop").addEventListener("click", stop);
  async function run(work) {
    stop();
    const own = (running = new AbortController());
    find(".stop").disabled = false;
    find(".alert").hidden = true;
    try {
      await work(own.signal);
    } catch (error) {
      if (error.name !== "AbortError") {
        find(".alert").textContent = error.message;
        find(".alert").hidden = false;
      }
    } finally {
      if (running === own) {
        running = null;
        find(".stop").disabled = true;
      }
    }
  }
  const common = () => {
    const seed = find(".seed").value;
    return { model: model.id, temperature: Number(find(".temperature").value), ...(seed ? { seed: Number(seed) } : {}) };
  };
  return { section, find, run, common, say: (text) => (find(".said").textContent = text) };
}

/** The values of a stream of events, each as it comes. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const pieces = (rest + value).split("\n\n");
    rest = pieces.pop();
    for (const piece of pieces) {
      const data = piece.slice("data: ".length);
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Error(found.error.message);
      yield found;
    }
  }
}

const seconds = (began) => ((performance.now() - began) / 1000).toFixed(1);

export function imagePanel(model, ask) {
  const { section, find, run, common, say } = panel("image", model);
  const { width, height, channels, levels } = model;
  const upper = Math.floor(height / 2);
  const sketch = find(".sketch");
  sketch.width = width * FINE;
  sketch.height = height * FINE;
  sketch.setAttribute("aria-label", "Draw the upper half of an image here, with a finger or the mouse");
  find(".hint").textContent =
    channels === 1
      ? `Draw the upper half of a digit with a finger or the mouse. ${COMPLETIONS} completions appear pixel by pixel.`
      : `Paint the upper half of an image, or let all of it be drawn. ${COMPLETIONS} images appear pixel by pixel.`;
  find(".colour").hidden = channels === 1;
  if (model.classes.length) {
    find(".class").hidden = false;
    for (const name of ["all in turn", ...model.classes]) {
      find(".class select").append(Object.assign(document.createElement("option"), { textContent: name }));
    }
  }
  const pen = sketch.getContext("2d", { willReadFrequently: true });
  const paper = () => (channels === 1 ? "#000" : "#87a7c7");

  function clear() {
    pen.globalCompositeOperation = "source-over";
    pen.fillStyle = paper();
    pen.fillRect(0, 0, sketch.width, upper * FINE);
    veil();
  }
  // The lower half is the model's: it is hatched, and whatever strokes reach into it is covered again.
  function veil() {
    const top = upper * FINE;
    pen.fillStyle = "#3a4152";
    pen.fillRect(0, top, sketch.width, sketch.height - top);
    pen.save();
    pen.beginPath();
    pen.rect(0, top, sketch.width, sketch.height - top);
    pen.clip();
    pen.strokeStyle = "#4d566b";
    pen.lineWidth = 3;
    for (let x = -sketch.height; x < sketch.width; x += 24) {
      pen.beginPath();
      pen.moveTo(x, top);
      pen.lineTo(x + sketch.height, top + sketch.height);
      pen.stroke();
    }
    pen.restore();
    pen.fillStyle = "#dfe4ee";
    pen.font = `${1.7 * FINE}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.fillText("the model draws this half", sketch.width / 2, top + (sketch.height - top) / 2);
  }

  let last = null;
  let drawn = false;
  function at(event) {
    const box = sketch.getBoundingClientRect();
    const scale = sketch.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }
  function stroke(event) {
    const here = at(event);
    pen.save();
    pen.beginPath();
    pen.rect(0, 0, sketch.width, upper * FINE);
    pen.clip();
    pen.strokeStyle = channels === 1 ? "#fff" : find(".colour input").value;
    pen.lineWidth = (channels === 1 ? 0.085 : 0.14) * width * FINE;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...(last ?? here));
    pen.lineTo(...here);
    pen.stroke();
    pen.restore();
    last = here;
    drawn = true;
  }
  sketch.addEventListener("pointerdown", (event) => {
    sketch.setPointerCapture(event.pointerId);
    last = null;
    stroke(event);
  });
  sketch.addEventListener("pointermove", (event) => {
    if (sketch.hasPointerCapture(event.pointerId)) stroke(event);
  });
  find(".clear").addEventListener("click", () => {
    drawn = false;
    clear();
  });

  /** The rows of the upper half: each pixel is the mean of what was drawn in it. */
  function rows() {
    const data = pen.getImageData(0, 0, sketch.width, upper * FINE).data;
    const found = [];
    for (let y = 0; y < upper; y++) {
      const row = [];
      for (let x = 0; x < width; x++) {
        const sums = [0, 0, 0];
        for (let j = 0; j < FINE; j++) {
          for (let i = 0; i < FINE; i++) {
            const where = 4 * ((y * FINE + j) * sketch.width + x * FINE + i);
            for (let c = 0; c < 3; c++) sums[c] += data[where + c];
          }
        }
        const values = sums.map((sum) => Math.round(((sum / (FINE * FINE)) * (levels - 1)) / 255));
        row.push(channels === 1 ? values[0] : values);
      }
      found.push(row);
    }
    return found;
  }

  /** Canvases whose pixels are set as their values come. */
  function gallery(n, given) {
    const results = find(".results");
    results.replaceChildren();
    return Array.from({ length: n }, (_, i) => {
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `image ${i + 1}`);
      results.append(canvas);
      const context = canvas.getContext("2d");
      const image = context.createImageData(width, height);
      let position = 0;
      const add = (values) => {
        for (const value of values) {
          const where = 4 * Math.floor(position / channels);
          const byte = Math.round((value * 255) / (levels - 1));
          if (channels === 1) image.data.fill(byte, where, where + 3);
          else image.data[where + (position % channels)] = byte;
          image.data[where + 3] = 255;
          position += 1;
        }
        context.putImageData(image, 0, 0);
      };
      add(given);
      return add;
    });
  }

  function draw(pixels) {
    return run(async (signal) => {
      const body = { ...common(), n: COMPLETIONS, stream: true, ...(pixels ? { pixels } : {}) };
      const chosen = find(".class select").selectedIndex;
      if (chosen > 0) body.label = model.classes[chosen - 1];
      const images = gallery(COMPLETIONS, pixels ? pixels.flat(2) : []);
      const began = performance.now();
      let seed = null;
      let values = 0;
      say("drawing ...");
      for await (const event of events(await ask("images", body, signal))) {
        if (event.index === undefined) {
          seed = event.seed;
          continue;
        }
        images[event.index](event.values);
        values += event.values.length;
        say(`seed ${seed}: ${values.toLocaleString("en")} values in ${seconds(began)} s`);
      }
    });
  }
  find(".complete").addEventListener("click", () => {
    if (drawn) return draw(rows());
    return run(async () => {
      throw new Error("Draw something in the upper half first, or choose Draw from nothing.");
    });
  });
  find(".free").addEventListener("click", () => draw(null));
  clear();
  return section;
}

export function textPanel(model, ask) {
  const { section, find, run, common, say } = panel("text", model);
  const written = find(".written");
  const word = find(".word");

  function piece(text, cost, likelier) {
    const span = Object.assign(document.createElement("span"), { textContent: text });
    const bits = -cost / Math.LN2;
    const heat = Math.min(1, bits / MOST_BITS) * 0.75;
    span.style.background = `rgba(var(--hot), ${heat.toFixed(3)})`;
    const others = Object.entries(likelier ?? {})
      .sort((a, b) => b[1] - a[1])
      .map(([other, logp]) => `${JSON.stringify(other)} ${(-logp / Math.LN2).toFixed(1)}`)
      .join(", ");
    const tell = () => {
      word.textContent = `${JSON.stringify(text)}: ${bits.toFixed(1)} bits. Likeliest here: ${others}`;
    };
    span.addEventListener("pointerenter", tell);
    span.addEventListener("click", tell);
    return span;
  }

  find(".write").addEventListener("click", () =>
    run(async (signal) => {
      const prompt = find("textarea").value;
      const body = { ...common(), prompt, max_tokens: Number(find(".length").value), stream: true, logprobs: 3 };
      written.replaceChildren(Object.assign(document.createElement("span"), { className: "given", textContent: prompt }));
      word.textContent = "";
      const began = performance.now();
      let tokens = 0;
      let nats = 0;
      say("writing ...");
      for await (const event of events(await ask("v1/completions", body, signal))) {
        for (const choice of event.choices) {
          choice.logprobs.tokens.forEach((token, i) => {
            tokens += 1;
            nats -= choice.logprobs.token_logprobs[i];
            written.append(piece(token, choice.logprobs.token_logprobs[i], choice.logprobs.top_logprobs[i]));
          });
        }
        const each = (nats / Math.LN2 / Math.max(1, tokens)).toFixed(2);
        say(`seed ${event.seed}: ${tokens} tokens in ${seconds(began)} s, ${each} bits each`);
      }
    }),
  );
  return section;
}

export function audioPanel(model, ask) {
  const { section, find, run, common, say } = panel("audio", model);
  find(".hint").textContent = model.classes.length
    ? "Choose what is to be said. You hear it while it is drawn."
    : "You hear it while it is drawn.";
  const wave = find(".wave");
  const rate = model.rate;
  const repeats = Math.max(1, Math.ceil(LEAST_RATE / rate));
  let speaker = null;
  let playing = [];

  function quiet() {
    for (const source of playing) source.stop();
    playing = [];
  }

  /** Let samples be heard right behind those before; returns when they end, in the speaker's time. */
  function play(samples, when) {
    const buffer = speaker.createBuffer(1, samples.length * repeats, rate * repeats);
    buffer.copyToChannel(Float32Array.from({ length: buffer.length }, (_, i) => samples[Math.floor(i / repeats)]), 0);
    const source = Object.assign(speaker.createBufferSource(), { buffer });
    source.connect(speaker.destination);
    const start = Math.max(when, speaker.currentTime + 0.05);
    source.start(start);
    playing.push(source);
    return start + buffer.duration;
  }

  function show(parts, expected) {
    const context = wave.getContext("2d");
    const style = getComputedStyle(section);
    context.clearRect(0, 0, wave.width, wave.height);
    context.fillStyle = style.getPropertyValue("--main");
    let position = 0;
    const middle = wave.height / 2;
    const columns = new Float32Array(wave.width);
    for (const part of parts) {
      for (const sample of part) {
        const column = Math.min(wave.width - 1, Math.floor((position * wave.width) / expected));
        columns[column] = Math.max(columns[column], Math.abs(sample));
        position += 1;
      }
    }
    const loudest = Math.max(0.05, ...columns);
    const until = Math.min(wave.width, Math.ceil((position * wave.width) / expected));
    for (let x = 0; x < until; x++) {
      const high = Math.max(1, (columns[x] / loudest) * 0.95 * middle);
      context.fillRect(x, middle - high, 1, 2 * high);
    }
  }

  let clip = [];
  function whole() {
    const joined = new Float32Array(clip.reduce((sum, part) => sum + part.length, 0));
    clip.reduce((at, part) => (joined.set(part, at), at + part.length), 0);
    return joined;
  }

  async function draw(label, button) {
    speaker ??= new AudioContext(); // only now: a browser lets nothing be heard before somebody has touched the page
    speaker.resume();
    quiet();
    for (const other of section.querySelectorAll(".classes button")) other.classList.toggle("on", other === button);
    await run(async (signal) => {
      const length = Number(find(".length").value);
      const body = { ...common(), seconds: length, ...(label === null ? {} : { label }) };
      find(".again").disabled = true;
      find(".save").hidden = true;
      clip = [];
      const bytes = [];
      const began = performance.now();
      say("drawing ...");
      const answer = await ask("audio", body, signal);
      const seed = answer.headers.get("s4gen-seed");
      const reader = answer.body.getReader();
      let rest = new Uint8Array(0);
      let header = 44;
      let when = 0;
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        let got = new Uint8Array(rest.length + value.length);
        got.set(rest);
        got.set(value, rest.length);
        const skipped = Math.min(header, got.length);
        header -= skipped;
        got = got.slice(skipped);
        const n = Math.floor(got.length / 2);
        rest = got.slice(2 * n);
        if (!n) continue;
        bytes.push(got.slice(0, 2 * n));
        const view = new DataView(got.buffer, 0, 2 * n);
        const samples = Float32Array.from({ length: n }, (_, i) => view.getInt16(2 * i, true) / 32768);
        clip.push(samples);
        when = play(samples, when);
        show(clip, Math.max(length * rate, samples.length));
        const heard = clip.reduce((sum, part) => sum + part.length, 0) / rate;
        say(`seed ${seed}: ${heard.toFixed(2)} s of sound in ${seconds(began)} s`);
      }
      if (!clip.length) return;
      show(clip, whole().length);
      find(".again").disabled = false;
      URL.revokeObjectURL(find(".save").href);
      find(".save").href = URL.createObjectURL(new Blob([wavHeader(bytes), ...bytes], { type: "audio/wav" }));
      find(".save").hidden = false;
    });
  }

  /** The header of a wav file of these bytes: the one that came does not know how long the clip would be. */
  function wavHeader(bytes) {
    const length = bytes.reduce((sum, part) => sum + part.length, 0);
    const view = new DataView(new ArrayBuffer(44));
    const write = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
    write(0, "RIFF");
    view.setUint32(4, 36 + length, true);
    write(8, "WAVEfmt ");
    [[16, 16, 4], [20, 1, 2], [22, 1, 2], [24, rate, 4], [28, 2 * rate, 4], [32, 2, 2], [34, 16, 2]].forEach(([at, value, size]) =>
      size === 4 ? view.setUint32(at, value, true) : view.setUint16(at, value, true),
    );
    write(36, "data");
    view.setUint32(40, length, true);
    return view.buffer;
  }

  for (const name of model.classes.length ? model.classes : [null]) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name ?? "Draw a clip" });
    button.addEventListener("click", () => draw(name, button));
    find(".classes").append(button);
  }
  find(".stop").addEventListener("click", quiet);
  find(".again").addEventListener("click", () => {
    quiet();
    play(whole(), 0);
  });
  return section;
}

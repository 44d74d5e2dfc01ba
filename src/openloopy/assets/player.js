// <talking-video video="ID">: a video of the service (apps.service), which plays while it is made.
//
// It follows v1/videos/ID: how far it is, what to know of it, how it ended; and plays v1/videos/ID/stream through Media
// Source Extensions, whose codec string is read from the bytes. Without them the browser plays the stream as a file.
// Without an ID it is an empty stage. A video that is not done when its element goes, or its page, is given up: nobody
// could see it any more, and others wait. A phone that is locked, or a tab in the background, changes nothing.
"use strict";
(() => {
const ASK_MS = 250, RETRY_MS = 2000, KEPT_BEHIND_S = 10;
const MEMORY = "openloopy-video";  // the last finished one, for a reload of this tab
const MARK = "M8 5v14l11-7z";
const TEMPLATE = `
<style>
:host { display: block; color: var(--body-text-color); font: inherit; }
[hidden] { display: none !important; }
.stage { position: relative; width: 100%; box-sizing: border-box; display: grid; place-items: center; overflow: hidden; aspect-ratio: var(--shape, 1);
  max-height: max(320px, calc(100vh - 330px)); background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  border-radius: var(--block-radius); }
video { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.over { display: grid; gap: 10px; justify-items: center; padding: 24px; text-align: center;
  color: var(--body-text-color-subdued); }
.over svg { width: 44px; height: 44px; fill: currentColor; opacity: .5; }
.badge { position: absolute; left: 12px; top: 12px; padding: 4px 10px; border-radius: 99px; color: #fff;
  background: rgb(0 0 0 / .66); font-size: var(--text-sm); }
.line { display: flex; gap: 12px; justify-content: space-between; align-items: baseline; min-height: 1.5em;
  margin: 12px 0 6px; }
.line p { margin: 0; } .numbers { color: var(--body-text-color-subdued); white-space: nowrap;
  font-variant-numeric: tabular-nums; }
progress { appearance: none; display: block; width: 100%; height: 6px; border: 0; border-radius: 3px; overflow: hidden;
  background: var(--border-color-primary); }
progress::-webkit-progress-bar { background: var(--border-color-primary); }
progress::-webkit-progress-value { background: var(--color-accent); transition: width .25s linear; }
progress::-moz-progress-bar { background: var(--color-accent); }
.buttons { display: flex; flex-wrap: wrap; gap: 8px; margin-top: 12px; }
button, a.button { flex: 1 1 140px; box-sizing: border-box; min-height: 44px; padding: 10px 16px; font: inherit;
  font-weight: 600; text-align: center; text-decoration: none; cursor: pointer; color: var(--button-secondary-text-color);
  background: var(--button-secondary-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: var(--button-large-radius); }
button:hover, a.button:hover { background: var(--button-secondary-background-fill-hover); }
a.main { color: var(--button-primary-text-color); background: var(--button-primary-background-fill);
  border-color: transparent; }
a.main:hover { background: var(--button-primary-background-fill-hover); }
.stage button { position: absolute; bottom: 64px; flex: none; }
:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
.error { margin: 12px 0 0; padding: 10px 14px; border: 1px solid var(--error-border-color); border-radius: 8px;
  color: var(--error-text-color); background: var(--error-background-fill); }
ul { margin: 12px 0 0; padding-left: 1.2em; color: var(--body-text-color-subdued); font-size: var(--text-sm); }
details { margin-top: 12px; } summary { cursor: pointer; padding: 10px 0; }
pre { margin: 0; padding: 12px; max-height: 320px; overflow: auto; font-size: var(--text-xs); white-space: pre-wrap;
  overflow-wrap: anywhere; background: var(--background-fill-secondary); border-radius: 8px; }
@media (max-width: 800px) { .stage:not(.live) { aspect-ratio: 16 / 10; } }
@media (prefers-reduced-motion: reduce) { progress::-webkit-progress-value { transition: none; } }
</style>
<div class="stage">
  <div class="over"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="${MARK}"/></svg><span></span></div>
  <video playsinline controls preload="auto" aria-label="Talking video" hidden></video>
  <span class="badge" hidden></span>
  <button class="sound" type="button" hidden>Turn the sound on</button>
</div>
<div class="line" hidden><p class="phase" role="status"></p><span class="numbers"></span></div>
<progress max="1" value="0" aria-label="How much of the video is made" hidden></progress>
<p class="error" role="alert" hidden></p>
<ul aria-label="Notes" hidden></ul>
<div class="buttons" hidden>
  <button class="cancel" type="button">Cancel</button>
  <a class="button main download" download hidden>Download the video</a>
</div>
<details hidden><summary>How it was made</summary><pre></pre>
  <div class="buttons"><a class="button sidecar" download>Download as JSON</a></div></details>`;

const sleep = ms => new Promise(wake => setTimeout(wake, ms));
const seconds = s => s < 90 ? `${Math.max(1, Math.round(s))} s` : `${Math.round(s / 60)} min`;

const sentence = text => text.slice(0, 1).toUpperCase() + text.slice(1);

class TalkingVideo extends HTMLElement {
  static observedAttributes = ["video"];

  connectedCallback() {
    if (!this.shadowRoot) this.attachShadow({mode: "open"});
    this.open();
  }

  attributeChangedCallback() {
    if (!this.shadowRoot || !this.isConnected) return;  // connectedCallback comes
    this.close();
    this.open();
  }

  disconnectedCallback() { this.close(); }

  open() {
    this.shadowRoot.innerHTML = TEMPLATE;
    this.$ = name => this.shadowRoot.querySelector(name);
    this.over = new AbortController();
    this.video = this.$("video");
    this.job = this.facts = null;
    this.isFinished = false;  // the job, as the service says
    this.isWhole = false;  // all of the stream is in the player
    this.isHeld = false;  // paused by us, because there is nothing to play yet
    this.style.removeProperty("--shape");
    this.say("The video plays here, while it is made.");
    const id = this.getAttribute("video");
    if (id) this.begin(id); else this.recall();
  }

  close() {
    this.giveUp();
    this.over.abort();
    this.video.removeAttribute("src");
    this.video.load();
  }

  begin(id) {
    this.job = id;
    this.address = new URL(`v1/videos/${id}`, document.baseURI).href;
    sessionStorage.removeItem(MEMORY);
    const signal = this.over.signal;
    this.$(".cancel").addEventListener("click", () => this.cancel());
    this.$(".sound").addEventListener("click", () => { this.video.muted = false; this.$(".sound").hidden = true; });
    this.video.addEventListener("waiting", () => this.hold());
    this.video.addEventListener("loadeddata", () => this.showVideo());
    addEventListener("pagehide", () => this.giveUp(), {signal});
    for (const name of [".line", "progress", ".buttons"]) this.$(name).hidden = false;
    this.say("Getting ready …");
    this.scrollIntoView({block: "nearest", behavior: "smooth"});
    this.follow();
    this.stream();
  }

  /** After a reload: the last finished video of this tab, if the service still has it. */
  async recall() {
    const id = sessionStorage.getItem(MEMORY);
    const answer = id && await fetch(new URL(`v1/videos/${id}`, document.baseURI)).catch(() => null);
    if (!answer?.ok || this.job || this.over.signal.aborted) return;
    const facts = await answer.json();
    if (facts.status !== "done") return;
    this.job = id;
    this.address = answer.url;
    this.isWhole = true;
    this.$(".buttons").hidden = this.$(".line").hidden = false;
    this.video.addEventListener("loadeddata", () => this.showVideo());
    this.video.src = `${this.address}/content`;
    this.update(facts);
  }

  // -- what the service says ---------------------------------------------------------------------------------------

  async follow() {
    const {signal} = this.over;
    while (!this.isFinished && !signal.aborted) {
      let pause = ASK_MS;
      try {
        const answer = await fetch(this.address, {signal, cache: "no-store"});
        if (answer.status === 404) return this.fail("This video is no longer there.");
        if (answer.ok) this.update(await answer.json());
      } catch (error) {
        if (signal.aborted) return;
        this.phase("The service does not answer; is it still running? Trying again …");
        pause = RETRY_MS;
      }
      await sleep(pause);
    }
  }

  update(facts) {
    if (this.over.signal.aborted || this.isFinished) return;
    this.facts = facts;
    const {status, progress} = facts;
    this.$("progress").value = progress.share;
    this.notes(facts.notes);
    if (status === "queued") {
      const first = facts.num_before === 1 ? "1 video comes" : `${facts.num_before} videos come`;
      this.phase(facts.num_before ? `Waiting: ${first} first` : "Starts in a moment");
      this.$(".numbers").textContent = `about ${seconds(facts.left_s)}`;
      if (facts.num_before) this.say("In the queue …");
    } else if (status === "running") {
      this.phase(progress.frames_done ? "Being made" : "Preparing the portrait");
      this.$(".numbers").textContent = progress.frames_done
        ? `${Math.round(100 * progress.share)} %, ${seconds(facts.left_s)} left` : "";
      this.release();
    } else this.finish(facts);
  }

  finish(facts) {
    this.isFinished = true;
    this.$(".cancel").hidden = true;
    this.$("progress").hidden = true;
    if (facts.status !== "done") return this.fail(facts.error || `This video is ${facts.status}.`);
    sessionStorage.setItem(MEMORY, this.job);
    const {width, height, num_frames: frames, timings} = facts.video;
    this.phase("Done");
    this.$(".numbers").textContent = `${facts.audio_s.toFixed(1)} s of video made in ${timings.total_s.toFixed(1)} s`;
    const download = this.$(".download");
    download.href = `${this.address}/content`;
    download.download = `openloopy-${this.job.slice(0, 8)}.mp4`;
    download.title = `${width} × ${height} px, ${frames} frames`;
    download.hidden = false;
    this.release();
    this.sidecar();
  }

  async sidecar() {
    const answer = await fetch(`${this.address}/sidecar`).catch(() => null);
    if (!answer?.ok || this.over.signal.aborted) return;
    this.$("pre").textContent = JSON.stringify(await answer.json(), null, 2);
    this.$(".sidecar").href = `${this.address}/sidecar`;
    this.$(".sidecar").download = `openloopy-${this.job.slice(0, 8)}.json`;
    this.$("details").hidden = false;
  }

  cancel() {
    this.giveUp();
    this.over.abort();
    this.fail("", "Cancelled");
  }

  giveUp() {
    if (!this.job || this.isFinished) return;
    this.isFinished = true;
    fetch(this.address, {method: "DELETE", keepalive: true}).catch(() => {});
  }

  fail(message, phase = "Not made") {
    this.isFinished = true;
    this.over.abort();
    this.video.pause();
    this.video.hidden = true;
    this.$(".stage").classList.remove("live");
    this.$(".over").hidden = false;
    this.$(".numbers").textContent = "";
    for (const name of [".buttons", "progress", ".badge", ".sound", ".line"]) this.$(name).hidden = true;
    this.$(".error").textContent = sentence(message);
    this.$(".error").hidden = !message;
    this.say(phase);
  }

  // -- what it shows -------------------------------------------------------------------------------------------------

  say(text) { this.$(".over span").textContent = text; }

  phase(text) {
    if (this.$(".phase").textContent !== text) this.$(".phase").textContent = text;  // it is read aloud at each change
  }

  notes(texts) {
    const list = this.$("ul");
    if (list.childElementCount === texts.length) return;
    list.replaceChildren(...texts.map(text =>
      Object.assign(document.createElement("li"), {textContent: sentence(text)})));
    list.hidden = !texts.length;
  }

  showVideo() {
    this.style.setProperty("--shape", `${this.video.videoWidth} / ${this.video.videoHeight}`);
    this.$(".stage").classList.add("live");
    this.$(".over").hidden = true;
    this.video.hidden = false;
  }

  // -- playing -------------------------------------------------------------------------------------------------------

  async stream() {
    const Source = window.ManagedMediaSource || window.MediaSource;
    try {
      if (Source) await this.feed(new Source());
      else {
        this.video.src = `${this.address}/stream`;
        this.video.addEventListener("error", () => this.playWhole(), {once: true});
        this.play();
      }
    } catch (error) {
      if (!this.over.signal.aborted) this.playWhole();
    }
  }

  /** What cannot be played while it is made is played when it is done. */
  async playWhole() {
    while (!this.isFinished) await sleep(ASK_MS);
    if (this.over.signal.aborted) return;
    this.isWhole = true;
    this.video.src = `${this.address}/content`;
    this.play();
  }

  async feed(source) {
    this.video.disableRemotePlayback = true;  // a managed source wants it
    this.video.src = URL.createObjectURL(source);
    await once(source, "sourceopen");
    URL.revokeObjectURL(this.video.src);
    const answer = await fetch(`${this.address}/stream`, {signal: this.over.signal});
    if (!answer.ok) throw new Error(`the stream answers ${answer.status}`);
    const reader = answer.body.getReader();
    let head = new Uint8Array(), buffer = null;
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      if (buffer) { await this.append(buffer, value); continue; }
      head = joined(head, value);
      const codecs = codecsOf(head);
      if (!codecs) continue;
      buffer = source.addSourceBuffer(`video/mp4; codecs="${codecs.join(", ")}"`);
      await this.append(buffer, head);
      this.play();
    }
    if (!buffer) return;
    source.endOfStream();
    this.isWhole = true;
    this.release();
  }

  async append(buffer, bytes) {
    for (;;) {
      try {
        buffer.appendBuffer(bytes);
        return await once(buffer, "updateend");
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        await this.makeRoom(buffer);
      }
    }
  }

  /** A long video does not fit into the browser's buffer: what was seen leaves it. */
  async makeRoom(buffer) {
    const end = this.video.currentTime - KEPT_BEHIND_S;
    if (end > 0 && buffer.buffered.length && buffer.buffered.start(0) < end) {
      buffer.remove(0, end);
      await once(buffer, "updateend");
    } else await sleep(1000);
  }

  async play() {
    try {
      await this.video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError" || this.video.muted) return;
      this.video.muted = true;  // a browser that wants another click for sound
      this.$(".sound").hidden = false;
      await this.play();
    }
  }

  /** Nothing to play: rather one pause, until the rest comes as fast as it is seen, than many. */
  hold() {
    if (this.isWhole || this.isHeld || this.video.hidden) return;
    this.isHeld = true;
    this.video.pause();
    this.video.controls = false;  // nothing to press, and no wheel that turns before the face
    this.release();
  }

  release() {
    if (!this.isHeld) return;
    const toSee = this.facts.audio_s - this.video.currentTime, toMake = this.facts.left_s;
    const badge = this.$(".badge");
    if (this.isWhole || this.isFinished || toMake < .9 * toSee) {
      this.isHeld = false;
      this.video.controls = badge.hidden = true;
      this.play();
    } else {
      badge.textContent = `Plays on in ${seconds(Math.max(0, toMake - .9 * toSee))}`;
      badge.hidden = false;
    }
  }
}

// -- the codecs of an mp4 ---------------------------------------------------------------------------------------------

const once = (target, name) => new Promise((done, failed) => {
  target.addEventListener(name, done, {once: true});
  if (name === "updateend") target.addEventListener("error", () => failed(new Error("refused by the player")), {once: true});
});

function joined(a, b) {
  const all = new Uint8Array(a.length + b.length);
  all.set(a);
  all.set(b, a.length);
  return all;
}

/** The boxes in bytes from..to: [name, from, to] of what they hold; one that is not there to its end is the last. */
function* boxes(view, from, to) {
  while (from + 8 <= to) {
    const size = view.getUint32(from);
    const name = String.fromCharCode(...[4, 5, 6, 7].map(i => view.getUint8(from + i)));
    if (size < 8) return;
    yield [name, from + 8, from + size];
    from += size;
  }
}

/** Such as ["avc1.640028", "mp4a.40.2"]; null as long as the head is not there to its end. */
function codecsOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const within = (names, from, to) => {
    if (!names.length) return [[from, to]];
    return [...boxes(view, from, to)].filter(([name]) => name === names[0])
      .flatMap(([, start, end]) => within(names.slice(1), start, end));
  };
  const head = [...boxes(view, 0, bytes.length)].find(([name]) => name === "moov");
  if (!head || head[2] > bytes.length) return null;
  const tables = within(["trak", "mdia", "minf", "stbl", "stsd"], head[1], head[2]);
  return tables.flatMap(([from, to]) => [...boxes(view, from + 8, to)].map(entry => codecOf(view, entry)));
}

function codecOf(view, [name, from, to]) {
  const hex = at => view.getUint8(at).toString(16).padStart(2, "0");
  if (name === "avc1") {
    const [, start] = [...boxes(view, from + 78, to)].find(([kind]) => kind === "avcC");
    return `avc1.${hex(start + 1)}${hex(start + 2)}${hex(start + 3)}`;
  }
  if (name === "mp4a") {
    const [, start, end] = [...boxes(view, from + 28, to)].find(([kind]) => kind === "esds");
    return `mp4a.${aacOf(view, start + 4, end)}`;
  }
  return name;
}

/** Object type and audio object type out of an elementary stream descriptor (ISO 14496-1): "40.2" is AAC-LC. */
function aacOf(view, at, end) {
  let object = "40";
  while (at < end) {
    const tag = view.getUint8(at++);
    while (view.getUint8(at++) & 0x80);  // its length, which nothing here needs
    if (tag === 3) at += 3;
    else if (tag === 4) { object = view.getUint8(at).toString(16).padStart(2, "0"); at += 13; }
    else if (tag === 5) return `${object}.${view.getUint8(at) >> 3}`;
    else return object;
  }
  return object;
}

/** Pictures whose ending a system does not know have no type there, and Gradio refuses those before we see them. */
const { get: typeOf } = Object.getOwnPropertyDescriptor(Blob.prototype, "type");
Object.defineProperty(File.prototype, "type", {
  configurable: true,
  get() {
    const [, ending] = this.name.toLowerCase().match(/\.(heic|heif|hif|avif|jxl|jp2|qoi|psd|tiff?)$/) ?? [];
    return typeOf.call(this) || (ending ? `image/${ending}` : "");
  },
});

if (!customElements.get("talking-video")) customElements.define("talking-video", TalkingVideo);
})();

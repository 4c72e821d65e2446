// The rating studio's page. Works without it too: then the page's buttons send the form.
// Saving: every change is an action with an id of its own, kept in this browser until the server has
// acknowledged it. Actions are sent one after the other, so that no change overtakes another, and sent again with
// the same id until they are answered: the server counts an id once.
(() => {
  "use strict";

  const rater = document.body.dataset.rater;
  const csrf = document.body.dataset.csrf;
  const form = document.getElementById("page");
  const statusLine = document.getElementById("status");
  const outbox = document.getElementById("outbox");
  const prefix = `medgen:${rater}:`;

  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const store = (name, text) => {
    try {
      if (text === null) localStorage.removeItem(name);
      else localStorage.setItem(name, text);
      return true;
    } catch { return false; }
  };

  // --- scales as they stand on the page ---

  const scaleOf = (slug) => document.getElementById(`scale-${slug}`);
  const valueOf = (scale) => {
    const number = scale.querySelector("input[type=number]");
    if (number) return number.value;
    const chosen = scale.querySelector("input[type=radio]:checked");
    return chosen ? chosen.value : "";
  };
  const show = (scale, value) => {
    const number = scale.querySelector("input[type=number]");
    if (number) number.value = value;
    for (const radio of all("input[type=radio]", scale)) radio.checked = radio.value === value;
  };
  const seenIn = (scale) => scale.querySelector(".state input[name^=seen]").value;
  const mark = (scale, words, unsaved) => {
    scale.classList.toggle("unsaved", unsaved);
    scale.querySelector(".state .words").textContent = words;
  };
  const say = (words, bad = false) => {
    statusLine.classList.toggle("bad", bad);
    statusLine.textContent = words;
  };

  let held = new Map(); // value of each scale before the change that is being made
  const remember = () => { held = new Map(all(".scale").map((scale) => [scale.dataset.slug, valueOf(scale)])); };

  // --- the queue of actions ---

  let queue = [];
  let busy = false;
  let halted = false; // logged out: nothing is sent until the page is opened anew
  let wait = 0;
  let timer = 0;
  let leaving = null; // button that was pressed while values were still on their way
  let durable = true;

  const keep = (entry) => { durable = store(prefix + entry.action, JSON.stringify(entry)); };
  const drop = (entry) => {
    queue = queue.filter((each) => each !== entry);
    store(prefix + entry.action, null);
  };
  const pendingFor = (slug) => queue.some((entry) => entry.changes.some((change) => change.slug === slug));

  function load() {
    const names = [];
    try {
      for (let place = 0; place < localStorage.length; place++) names.push(localStorage.key(place));
    } catch { return; }
    for (const name of names.filter((each) => each.startsWith(prefix))) {
      try { queue.push(JSON.parse(stored(name))); } catch { store(name, null); }
    }
    queue.sort((one, other) => one.order - other.order);
  }

  function actionId() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  function applyPending(fresh = false) {
    const waiting = fresh || halted || wait > 0;
    for (const entry of queue) {
      for (const change of entry.changes) {
        const scale = scaleOf(change.slug);
        if (!scale) continue;
        show(scale, change.value);
        mark(scale, waiting ? "Not saved yet" : "Saving…", waiting);
      }
    }
    remember();
  }

  function enqueue(changes, label) {
    const entry = { action: actionId(), order: Date.now() + queue.length / 1000, url: form.dataset.answer, label, changes };
    for (const change of changes) {
      // Behind another change of the same scale the version is known only when that one is answered.
      change.seen = pendingFor(change.slug) ? null : seenIn(scaleOf(change.slug));
      mark(scaleOf(change.slug), "Saving…", false);
    }
    queue.push(entry);
    keep(entry);
    remember();
    send();
  }

  function send() {
    if (busy || halted || !queue.length) return;
    clearTimeout(timer);
    const entry = queue[0];
    busy = true;
    const part = (name) => entry.changes.map((change) => change[name] ?? "");
    const values = { csrf, action: entry.action, slug: part("slug"), value: part("value"), seen: part("seen") };
    htmx.ajax("POST", entry.url, { source: outbox, target: outbox, swap: "none", values }).catch(() => {});
  }

  function versionsOf(xhr) {
    const text = xhr.getResponseHeader("X-Versions") || "";
    return new Map(text.split(",").filter(Boolean).map((each) => each.split("=")));
  }

  function answered(event) {
    if (event.detail.elt !== outbox || !busy) return;
    busy = false;
    const xhr = event.detail.xhr;
    const entry = queue[0];
    const slugs = entry.changes.map((change) => change.slug);
    if (xhr.status === 200) {
      drop(entry);
      versionsOf(xhr).forEach((version, slug) => {
        for (const change of queue.flatMap((each) => each.changes)) {
          if (change.slug === slug && change.seen === null) change.seen = version;
        }
      });
      wait = 0;
      for (const slug of slugs) if (scaleOf(slug)) scaleOf(slug).classList.add("given");
      say(queue.length ? "Saving…" : `Saved: ${entry.label}`);
    } else if (xhr.status === 409) {
      for (const each of queue.filter((one) => one.changes.some((change) => slugs.includes(change.slug)))) drop(each);
      say("Not saved: this value was changed in another window. The present value is shown now; change it if it is not what you mean.", true);
      leaving = null;
    } else if (xhr.status === 401 || xhr.status === 403) {
      halted = true;
      say("You are logged out. What you gave is kept in this browser and saved as soon as you log in here again.", true);
    } else if ([400, 404, 413, 422].includes(xhr.status)) {
      drop(entry);
      for (const slug of slugs) if (scaleOf(slug)) mark(scaleOf(slug), "Not saved", true);
      say(`Not saved: ${xhr.responseText.slice(0, 300)}`, true);
      leaving = null;
    } else {
      retryLater();
    }
    applyPending();
    if (!queue.length && leaving) leave();
    else if (wait === 0) send();
  }

  function retryLater() {
    wait = Math.min(15000, wait ? wait * 2 : 500);
    clearTimeout(timer);
    timer = setTimeout(send, wait);
    const number = queue.length === 1 ? "1 value is" : `${queue.length} values are`;
    say(`Not saved yet: the server does not answer. ${number} kept in this browser and sent again and again.`, true);
  }

  function leave() {
    const button = leaving;
    leaving = null;
    button.form.requestSubmit(button);
  }

  // --- changes by mouse, touch or keys ---

  function changed(event) {
    const scale = event.target.closest(".scale");
    if (!scale) return;
    const slug = scale.dataset.slug;
    const value = valueOf(scale);
    const number = scale.querySelector("input[type=number]");
    if (number && !number.checkValidity()) return void number.reportValidity();
    const changes = [{ slug, value }];
    const ranking = scale.closest(".ranking");
    if (ranking && value !== "") {
      // Two sets cannot hold one place: who held it takes the place that became free.
      const holder = all(".scale", ranking).find((each) => each !== scale && valueOf(each) === value);
      if (holder) {
        const freed = held.get(slug) || "";
        show(holder, freed);
        changes.push({ slug: holder.dataset.slug, value: freed });
      }
    }
    enqueue(changes, `${scale.dataset.label}: ${value === "" ? "taken back" : value}`);
  }

  let typed = "";
  let typing = null;
  let typingTimer = 0;

  function finishTyping() {
    clearTimeout(typingTimer);
    const [scale, text] = [typing, typed];
    typing = null;
    typed = "";
    if (!scale || !text) return;
    const radio = document.getElementById(`v-${scale.dataset.slug}-${Number(text)}`);
    if (!radio || radio.checked) return;
    radio.checked = true;
    radio.dispatchEvent(new Event("change", { bubbles: true }));
  }

  function digit(scale, key) {
    if (typing && typing !== scale) finishTyping();
    clearTimeout(typingTimer);
    const highest = Number(scale.dataset.highest);
    typed = Number(typed + key) <= highest ? typed + key : key;
    typing = scale;
    const radio = document.getElementById(`v-${scale.dataset.slug}-${Number(typed)}`);
    if (radio) radio.focus();
    const mayGrow = Number(typed) > 0 && Number(typed) * 10 <= highest;
    if (mayGrow) typingTimer = setTimeout(finishTyping, 700);
    else finishTyping();
  }

  function toScale(scale) {
    if (!scale) return false;
    const input = scale.querySelector("input[type=radio]:checked") || scale.querySelector("input:not([type=hidden])");
    input.focus();
    scale.scrollIntoView({ block: "nearest" });
    return true;
  }

  function nextScale(scale) {
    const scales = all(".scale");
    if (!toScale(scales[scales.indexOf(scale) + 1])) document.querySelector(".steps .main").focus();
  }

  function nextMissing() {
    const scales = all(".scale");
    const here = scales.indexOf(document.activeElement.closest(".scale"));
    const around = [...scales.slice(here + 1), ...scales.slice(0, here + 1)];
    if (!toScale(around.find((scale) => valueOf(scale) === ""))) say("Nothing is missing on this page.");
  }

  const lettersOn = () => stored("medgen:letters") !== "off";
  const go = (value) => {
    const button = document.querySelector(`.steps button[value=${value}]`);
    if (button && !button.disabled) button.form.requestSubmit(button);
  };

  function pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
    const target = event.target;
    const scale = target.closest(".scale");
    const writing = target.matches("input[type=number], input[type=text]");
    if (scale && !writing && /^[0-9]$/.test(event.key)) {
      event.preventDefault();
      return digit(scale, event.key);
    }
    if (typing) finishTyping();
    if (scale && event.key === "Enter") {
      event.preventDefault();
      if (writing) target.blur();
      return nextScale(scale);
    }
    if (writing || !lettersOn()) return;
    const deeds = { m: nextMissing, z: openHere, n: () => go("next"), p: () => go("previous"), "?": showKeys };
    const deed = deeds[event.key];
    if (deed) {
      event.preventDefault();
      deed();
    }
  }

  const showKeys = () => document.getElementById("keys").showModal();

  // --- the large view ---

  const viewer = document.getElementById("viewer");
  const stage = document.getElementById("stage");
  const large = document.getElementById("large");
  let grids = [];
  let set = 0;
  let place = 0;
  let zoom = 1;
  let cameFrom = null;

  function openHere() {
    const section = document.activeElement.closest("section") || document;
    const link = section.querySelector(".images a") || document.querySelector(".images a");
    if (link) openLarge(link);
  }

  function openLarge(link) {
    cameFrom = document.activeElement;
    grids = all(".images").map((grid) => ({ name: grid.dataset.set, links: all("a", grid) }));
    set = grids.findIndex((grid) => grid.links.includes(link));
    place = grids[set].links.indexOf(link);
    if (!viewer.open) viewer.showModal();
    draw(1);
    stage.focus();
  }

  function draw(newZoom) {
    const grid = grids[set];
    place = (place + grid.links.length) % grid.links.length;
    large.src = grid.links[place].href;
    const name = `${grid.name}, image ${place + 1} of ${grid.links.length}`;
    large.alt = name;
    document.getElementById("viewer-name").textContent = name;
    enlarge(newZoom);
  }

  function enlarge(newZoom) {
    const [x, y] = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2];
    const before = large.clientWidth || 1;
    zoom = Math.min(8, Math.max(1, newZoom));
    large.style.width = `${Math.max(64, Math.min(stage.clientWidth, stage.clientHeight) * zoom)}px`;
    const ratio = large.clientWidth / before;
    stage.scrollLeft = x * ratio - stage.clientWidth / 2;
    stage.scrollTop = y * ratio - stage.clientHeight / 2;
  }

  const deedsInView = {
    previous: () => { place -= 1; draw(zoom); },
    next: () => { place += 1; draw(zoom); },
    up: () => { set = (set + grids.length - 1) % grids.length; draw(zoom); },
    down: () => { set = (set + 1) % grids.length; draw(zoom); },
    larger: () => enlarge(zoom * 1.5),
    smaller: () => enlarge(zoom / 1.5),
    fit: () => enlarge(1),
    close: () => viewer.close(),
  };
  const keysInView = {
    ArrowLeft: "previous", ArrowRight: "next", ArrowUp: "up", ArrowDown: "down", "+": "larger", "=": "larger", "-": "smaller", 0: "fit", z: "close",
  };

  function setUpViewer() {
    viewer.addEventListener("keydown", (event) => {
      const deed = keysInView[event.key];
      if (!deed || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      deedsInView[deed]();
    });
    viewer.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-do]");
      if (button) deedsInView[button.dataset.do]();
    });
    viewer.addEventListener("close", () => cameFrom && cameFrom.focus());
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      enlarge(zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2));
    }, { passive: false });
    large.addEventListener("dblclick", () => enlarge(zoom > 1 ? 1 : 2.5));
    large.addEventListener("dragstart", (event) => event.preventDefault());
    let grip = null;
    large.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse") return; // fingers scroll by themselves
      grip = { x: event.clientX + stage.scrollLeft, y: event.clientY + stage.scrollTop };
      large.setPointerCapture(event.pointerId);
    });
    large.addEventListener("pointermove", (event) => {
      if (!grip) return;
      stage.scrollLeft = grip.x - event.clientX;
      stage.scrollTop = grip.y - event.clientY;
    });
    large.addEventListener("pointerup", () => { grip = null; });
    window.addEventListener("resize", () => viewer.open && enlarge(zoom));
    document.addEventListener("click", (event) => {
      const link = event.target.closest(".images a");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      openLarge(link);
    });
  }

  function setUpSurround() {
    const button = document.getElementById("surround");
    button.hidden = false;
    button.addEventListener("click", () => {
      const dark = document.documentElement.dataset.surround !== "dark";
      document.documentElement.dataset.surround = dark ? "dark" : "light";
      button.setAttribute("aria-pressed", String(dark));
      const secure = location.protocol === "https:" ? "; secure" : "";
      document.cookie = `surround=${dark ? "dark" : "light"}; path=/; max-age=31536000; samesite=strict${secure}`;
    });
  }

  function setUpKeys() {
    const missing = document.getElementById("missing");
    missing.hidden = false;
    missing.addEventListener("click", nextMissing);
    const button = document.getElementById("show-keys");
    const letters = document.getElementById("letters-on");
    button.hidden = false;
    button.addEventListener("click", showKeys);
    document.getElementById("close-keys").addEventListener("click", () => document.getElementById("keys").close());
    letters.checked = lettersOn();
    letters.addEventListener("change", () => store("medgen:letters", letters.checked ? "on" : "off"));
    document.addEventListener("keydown", pressed);
    document.addEventListener("focusout", (event) => {
      if (typing && !typing.contains(event.relatedTarget)) finishTyping();
    });
  }

  document.addEventListener("submit", (event) => {
    finishTyping();
    if (!queue.length || halted) return;
    event.preventDefault();
    leaving = event.submitter;
    say("Saving before going on…");
    send();
  });
  document.body.addEventListener("htmx:afterRequest", answered);
  window.addEventListener("online", () => { wait = 0; send(); });
  window.addEventListener("beforeunload", (event) => {
    finishTyping();
    if (queue.length && !durable) event.preventDefault();
  });

  load();
  if (form) {
    setUpViewer();
    setUpSurround();
    setUpKeys();
    form.addEventListener("change", changed);
    applyPending(true);
  }
  send();
})();

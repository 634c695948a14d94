// Comfort for browsers with scripts: live numbers, copy buttons, keys, drafts. Every page works without it.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const kept = window.sessionStorage;

  // The browser's own time zone, until somebody chooses one.
  if (document.body.dataset.zone === "browser") {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (zone) document.cookie = `remit-zone=${encodeURIComponent(zone)}; path=/; samesite=lax; max-age=31536000`;
  }

  // What changes is said to those who do not see it.
  const said = document.createElement("div");
  said.className = "hidden";
  said.setAttribute("role", "status");
  document.body.append(said);
  const say = (text) => { said.textContent = ""; window.setTimeout(() => { said.textContent = text; }, 50); };

  // Why a form was not taken gets the focus.
  const first = document.querySelector("[data-focus]");
  if (first) first.focus();

  // -- copy buttons ---------------------------------------------------------------------------------------------------------------

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (!button) return;
    const text = button.dataset.copy ?? document.getElementById(button.dataset.copyFrom).textContent;
    try {
      await navigator.clipboard.writeText(text);
      say("Copied.");
      button.classList.add("copied");
      window.setTimeout(() => button.classList.remove("copied"), 1500);
    } catch {
      say("This browser does not let pages copy. Select it and copy it yourself.");
    }
  });

  // -- drafts: what is typed stays in this window, for whoever typed it, until it was taken ----------------------------------------------------------------

  const draftOf = (form) => `draft ${document.body.dataset.person} ${location.pathname} ${form.getAttribute("action")}`;
  const typedFields = (form) => Array.from(form.elements).filter((field) => field.name
    && !["hidden", "password", "submit", "button", "file"].includes(field.type) && field.tagName !== "BUTTON");
  const read = (form) => typedFields(form).map((field) => [field.name, field.value,
    ["checkbox", "radio"].includes(field.type) ? field.checked : null]);
  const wasTaken = document.querySelector("[data-toast]") || document.querySelector("[data-secret]");
  if (wasTaken) {
    const sent = kept.getItem("sent");
    if (sent) { kept.removeItem(sent); kept.removeItem("sent"); }
  }
  const isShownAgain = Boolean(document.querySelector("[data-typed]"));
  for (const form of all("form[data-draft]")) {
    const key = draftOf(form);
    let draft = null;
    try { draft = JSON.parse(kept.getItem(key)); } catch { kept.removeItem(key); }
    if (Array.isArray(draft) && !isShownAgain) {
      const fields = typedFields(form);
      for (const [name, value, checked] of draft) {
        const isBox = checked !== null;
        const field = fields.find((one) => one.name === name && (!isBox || one.value === value));
        if (!field) continue;
        if (isBox) field.checked = checked; else field.value = value;
      }
      const folded = form.closest("details");
      if (folded) folded.open = true;
    }
    form.addEventListener("input", () => {
      try { kept.setItem(key, JSON.stringify(read(form))); } catch { /* it is full: the form itself still has it */ }
    });
    form.addEventListener("submit", () => { if (kept.getItem(key)) kept.setItem("sent", key); });
  }

  // -- keys -------------------------------------------------------------------------------------------------------------------------

  const places = { o: "/", c: "/cases", m: "/dead-letters", r: "/replays", s: "/stuck", a: "/activity" };
  let before = "";
  let beforeAt = 0;
  const rowOf = () => document.activeElement && document.activeElement.closest("[data-row]");
  const move = (step) => {
    const rows = all("[data-row]").filter((row) => row.querySelector("a, input, summary"));
    if (!rows.length) return;
    const now = rows.indexOf(rowOf());
    const next = rows[Math.min(Math.max(now + step, 0), rows.length - 1)];
    (next.querySelector("a") || next.querySelector("input, summary")).focus();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") for (const open of all(".me details[open]")) open.open = false;
    if (document.body.dataset.keys !== "on" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]")) return;
    const isSecond = before === "g" && Date.now() - beforeAt < 1500;
    before = event.key;
    beforeAt = Date.now();
    if (isSecond && places[event.key]) { event.preventDefault(); location.assign(places[event.key]); return; }
    switch (event.key) {
      case "/": { const find = document.getElementById("q"); if (find) { event.preventDefault(); find.focus(); find.select(); } break; }
      case "?": location.assign("/words"); break;
      case "j": move(1); break;
      case "k": move(-1); break;
      case "x": { const row = rowOf(); const box = row && row.querySelector("input[type=checkbox]"); if (box) box.click(); break; }
      default:
    }
  });
  document.addEventListener("click", (event) => {
    for (const open of all(".me details[open]")) if (!open.contains(event.target)) open.open = false;
  });

  // -- the toast: the way back goes when it is too late -----------------------------------------------------------------------------

  for (const toast of all("[data-until]")) {
    const left = Date.parse(toast.dataset.until) - Date.parse(document.body.dataset.now);
    window.setTimeout(() => { const form = toast.querySelector("form"); if (form) form.remove(); say("It can no longer be undone."); }, Math.max(left, 0));
  }

  // -- live numbers -----------------------------------------------------------------------------------------------------------------

  if (!document.body.dataset.person) return;  // nobody is signed in, so there is no menu
  const parts = all("[data-live]");
  const keys = Array.from(new Set(parts.map((part) => part.dataset.live)));
  let heardAt = 0;
  let clock = "";
  const isInUse = (part) => part.contains(document.activeElement) && document.activeElement !== document.body
    || (!window.getSelection().isCollapsed && part.contains(window.getSelection().anchorNode));
  let shown = null;
  const apply = () => {  // a part that is swapped may have these in it: they are looked for anew
    if (!shown) return;
    for (const state of all("[data-live-state]")) {
      state.hidden = shown.isLive && !parts.length;  // the page is of its moment; only the menu is live
      state.classList.toggle("live", shown.isLive);
      if (state.textContent !== shown.text) state.textContent = shown.text;
    }
    for (const link of all("[data-refresh]")) link.hidden = shown.isLive;
  };
  const show = (isLive, text) => { shown = { isLive, text }; apply(); };
  // A part that somebody is in is swapped when they leave it. What was typed in it stays.
  const later = new Map();
  // What somebody is at stays where it is on the screen: the field with the focus, else what the pointer is on. Browsers do so by
  // themselves, but never at the top of a page, and Safari nowhere.
  let pointer = null;
  document.addEventListener("pointermove", (event) => { pointer = event; }, { passive: true });
  const isSeen = (one) => { const { top, bottom } = one.getBoundingClientRect(); return bottom > 0 && top < window.innerHeight; };
  const heldBeside = (part) => {
    const focused = document.activeElement;
    const pointed = pointer && document.elementFromPoint(pointer.clientX, pointer.clientY);
    return [focused, pointed].find((one) => one && one.closest("main") && !part.contains(one) && !one.contains(part) && isSeen(one));
  };
  const swap = (part, html) => {
    const held = heldBeside(part);
    const heldAt = held && held.getBoundingClientRect().top;
    const typed = all("input[id]", part).filter((field) => field.value !== field.defaultValue).map((field) => [field.id, field.value]);
    const words = () => { const one = part.querySelector("[data-say]"); return one ? one.textContent : ""; };
    const wordsBefore = words();
    part.innerHTML = html;
    for (const [id, value] of typed) { const field = document.getElementById(id); if (field) field.value = value; }
    if (words() && words() !== wordsBefore) say(words());
    apply();
    if (held) window.scrollBy({ top: held.getBoundingClientRect().top - heldAt, behavior: "instant" });
  };
  const swapLater = () => { for (const [part, html] of later) if (!isInUse(part)) { later.delete(part); swap(part, html); } };
  for (const event of ["focusout", "selectionchange"]) document.addEventListener(event, () => window.setTimeout(swapLater));
  const isHeard = () => { heardAt = Date.now(); };
  const takePart = (event) => {
    isHeard();
    const { key, html } = JSON.parse(event.data);
    for (const part of all("[data-live]")) if (part.dataset.live === key) later.set(part, html);
    swapLater();
  };
  const takeMoment = (event) => {
    isHeard();
    const told = JSON.parse(event.data);
    clock = told.clock;
    show(true, "live");
    if (parts.length) for (const time of all("[data-as-of] time")) { time.textContent = told.clock; time.dateTime = told.at; }
    for (const count of all("[data-count]")) {
      const [text, kind, word] = told.counts[count.dataset.count] || ["0", "", ""];
      count.className = `count ${kind}`;
      count.hidden = text === "0";
      const spoken = document.createElement("span");
      spoken.className = "hidden";
      spoken.textContent = ` ${word}`;
      count.replaceChildren(text, spoken);
    }
  };
  const isLost = () => show(false, clock ? `not live since ${clock.slice(0, 5)}` : "not live");
  // A browser has few connections to one site: a page that nobody sees takes none. One that was refused is asked for again later.
  const againMs = 30000;
  let stream = null;
  let again = 0;
  const disconnect = () => { window.clearTimeout(again); if (stream) stream.close(); stream = null; heardAt = 0; };
  const connect = () => {
    disconnect();
    if (document.hidden) return;
    stream = new EventSource(`/live?on=${encodeURIComponent(keys.join(","))}`);
    stream.addEventListener("part", takePart);
    stream.addEventListener("now", takeMoment);
    stream.addEventListener("signed-out", () => {
      disconnect();
      document.removeEventListener("visibilitychange", connect);
      show(false, "You were signed out");
    });
    stream.addEventListener("error", () => {
      isLost();
      if (stream && stream.readyState === EventSource.CLOSED) again = window.setTimeout(connect, againMs);
    });
  };
  document.addEventListener("visibilitychange", connect);
  connect();
  window.setInterval(() => { if (heardAt && Date.now() - heardAt > 20000) isLost(); }, 5000);
})();

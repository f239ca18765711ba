// The page of the server: chat, status, API console. Plain modules, no dependencies; all text goes in through textContent.
const $ = (id) => document.getElementById(id);
const views = ["chat", "status", "console"];
const store = {
  get(key, otherwise) { try { return JSON.parse(localStorage.getItem("ingot." + key)) ?? otherwise; } catch { return otherwise; } },
  set(key, value) { try { localStorage.setItem("ingot." + key, JSON.stringify(value)); } catch { /* private mode: not kept */ } },
};

// --- Views ---
function show() {
  const name = views.includes(location.hash.slice(1)) ? location.hash.slice(1) : "chat";
  for (const v of views) $(v).hidden = v !== name;
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash === "#" + name) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  (name === "chat" ? $("prompt") : $(name)).focus();
  if (name === "status") refresh();
}
addEventListener("hashchange", show);
addEventListener("keydown", (e) => {
  if (e.altKey && "123".includes(e.key)) { e.preventDefault(); location.hash = views[e.key - 1]; }
  if (e.key === "Escape") stop();
});

// --- Models ---
let models = [];
async function loadModels() {
  const list = await (await fetch("/v1/models")).json();
  models = list.data.map((m) => m.id);
  for (const select of [$("model"), $("call-model")]) {
    const chosen = select.value || store.get("model", "");
    select.replaceChildren(...models.map((m) => new Option(m, m)));
    if (models.includes(chosen)) select.value = chosen;
  }
  $("send").disabled = models.length === 0;
  await loadTemplate();
}
async function loadTemplate() {
  const name = $("model").value;
  if (!name) return;
  const r = await fetch(`/v2/models/${encodeURIComponent(name)}/attributes`);
  const a = r.ok ? await r.json() : {};
  $("template").textContent = a.chat_template || "This model has no chat template.";
  if (+a.max_model_length > 0) $("max-tokens").max = a.max_model_length;
}
$("model").addEventListener("change", () => { store.set("model", $("model").value); loadTemplate(); preview(); });

// --- Settings ---
const settings = { system: "", temperature: "0.7", "top-p": "0.95", "max-tokens": "512" };
for (const id of Object.keys(settings)) {
  $(id).value = store.get(id, settings[id]);
  $(id).addEventListener("input", () => { store.set(id, $(id).value); preview(); });
}
function preview() {
  $("temperature-value").textContent = $("temperature").value;
  $("top-p-value").textContent = $("top-p").value;
  $("request-json").textContent = JSON.stringify(requestBody(), null, 1);
}

// --- Chat ---
let thread = [];      // {role, content}
let running = null;   // AbortController of the answer that is being written
function requestBody() {
  const messages = [...thread];
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value });
  return {
    model: $("model").value, messages, stream: true, stream_options: { include_usage: true },
    temperature: +$("temperature").value, top_p: +$("top-p").value, max_tokens: +$("max-tokens").value,
  };
}
function bubble(role, text) {
  const li = document.createElement("li");
  li.className = role;
  li.textContent = text;
  $("messages").append(li);
  li.scrollIntoView({ block: "end" });
  return li;
}
// Yields the data of each server-sent event.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    pending += value;
    let end;
    while ((end = pending.indexOf("\n\n")) >= 0) {
      const data = pending.slice(0, end).split("\n").filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
      pending = pending.slice(end + 2);
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}
async function answer() {
  const li = bubble("assistant", "");
  li.classList.add("busy");
  running = new AbortController();
  $("send").hidden = true; $("stop").hidden = false;
  const start = performance.now();
  let first = 0, last = 0, pieces = 0, usage = null, text = "";
  try {
    const r = await fetch("/v1/chat/completions", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(requestBody()), signal: running.signal,
    });
    if (!r.ok) throw new Error((await r.json()).error?.message ?? r.statusText);
    for await (const e of events(r)) {
      if (e.error) throw new Error(e.error.message);
      if (e.usage) usage = e.usage;
      const delta = e.choices?.[0]?.delta;
      const piece = (delta?.reasoning_content ?? "") + (delta?.content ?? "");
      if (!piece) continue;
      last = performance.now();
      if (!first) first = last;
      ++pieces;
      text += piece;
      const bottom = $("messages").scrollHeight - $("messages").scrollTop - $("messages").clientHeight < 40;
      li.append(piece);
      if (bottom) li.scrollIntoView({ block: "end" });
    }
  } catch (e) {
    if (e.name !== "AbortError") bubble("error", e.message);
  }
  li.classList.remove("busy");
  if (text) thread.push({ role: "assistant", content: text }); else li.remove();
  running = null;
  $("send").hidden = false; $("stop").hidden = true;
  if (first) {
    const tokens = usage?.completion_tokens ?? pieces;
    const rate = last > first ? ((pieces - 1) * 1000 / (last - first)).toFixed(1) + " tokens/s, " : "";
    $("rates").textContent = `${rate}first after ${(first - start).toFixed(0)} ms, ${usage ? usage.prompt_tokens + " + " : ""}${tokens} tokens`;
  }
  preview();
  $("prompt").focus();
}
function stop() { running?.abort(); }
$("ask").addEventListener("submit", (e) => {
  e.preventDefault();
  const text = $("prompt").value.trim();
  if (!text || running || !models.length) return;
  $("prompt").value = "";
  $("prompt").style.height = "";
  thread.push({ role: "user", content: text });
  bubble("user", text);
  answer();
});
$("prompt").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); $("ask").requestSubmit(); }
});
$("prompt").addEventListener("input", () => { $("prompt").style.height = "auto"; $("prompt").style.height = $("prompt").scrollHeight + 2 + "px"; });
$("stop").addEventListener("click", stop);
$("clear").addEventListener("click", () => { stop(); thread = []; $("messages").replaceChildren(); $("rates").textContent = ""; preview(); $("prompt").focus(); });
$("again").addEventListener("click", () => {
  if (running || !thread.length) return;
  if (thread.at(-1).role === "assistant") { thread.pop(); $("messages").lastElementChild.remove(); }
  answer();
});

// --- Metrics ---
// Prometheus text -> Map of family -> [{labels, value}].
function parseMetrics(text) {
  const out = new Map();
  for (const line of text.split("\n")) {
    const m = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!m) continue;
    const labels = {};
    for (const [, k, v] of (m[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[k] = v.replace(/\\(.)/g, "$1");
    if (!out.has(m[1])) out.set(m[1], []);
    out.get(m[1]).push({ labels, value: +m[3] });
  }
  return out;
}
const sum = (metrics, name, where = {}) => {
  const rows = (metrics.get(name) ?? []).filter((r) => Object.entries(where).every(([k, v]) => r.labels[k] === v));
  return rows.length ? rows.reduce((a, r) => a + r.value, 0) : null;
};
// Models of one engine report the same gauges: each engine counts once.
function perEngine(metrics, name, where = {}) {
  const seen = new Set();
  let total = null;
  for (const r of metrics.get(name) ?? []) {
    if (!Object.entries(where).every(([k, v]) => r.labels[k] === v)) continue;
    const engine = ["max", "tokens_per"].map((kv_cache_block_type) => sum(metrics, "nv_trt_llm_kv_cache_block_metrics", { model: r.labels.model, kv_cache_block_type })) +
      "/" + sum(metrics, "nv_trt_llm_general_metrics", { model: r.labels.model, general_type: "iteration_counter" });
    if (seen.has(engine)) continue;
    seen.add(engine);
    total = (total ?? 0) + r.value;
  }
  return total;
}
const history = { ttft: [], itl: [], rate: [], queue: [], waiting: [] };
let before = null;
function push(series, value) { series.push(value); if (series.length > 120) series.shift(); }
// The mean of a histogram since the last reading, in ms.
function meanSince(metrics, family) {
  const count = sum(metrics, family + "_count"), total = sum(metrics, family + "_sum");
  if (count === null || !before) return null;
  const n = count - (sum(before.metrics, family + "_count") ?? 0);
  return n > 0 ? (total - (sum(before.metrics, family + "_sum") ?? 0)) / n * 1000 : null;
}
function draw(id, series, second) {
  const svg = $(id), w = 240, h = 90, most = Math.max(1e-9, ...series.filter(Number.isFinite), ...(second ?? []).filter(Number.isFinite));
  svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const path = (values) => {
    let d = "", pen = false;
    values.forEach((v, i) => {
      if (!Number.isFinite(v)) { pen = false; return; }
      d += `${pen ? "L" : "M"}${(w - (values.length - 1 - i) * 2).toFixed(1)} ${(h - 4 - v / most * (h - 12)).toFixed(1)}`;
      pen = true;
    });
    return d;
  };
  const make = (tag, cls, attributes) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    e.setAttribute("class", cls);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    return e;
  };
  const line = path(series);
  const parts = [make("line", "grid", { x1: 0, x2: w, y1: h - 4, y2: h - 4 })];
  if (second) parts.push(make("path", "second", { d: path(second) }));
  parts.push(make("path", "line", { d: line }));
  svg.replaceChildren(...parts);
}
const shown = (v, digits = 0) => Number.isFinite(v) ? v.toFixed(digits) : "–";

function tiles(m) {
  const success = sum(m, "nv_inference_request_success"), failed = sum(m, "nv_inference_request_failure");
  const rows = [
    ["Requests done", shown(success)], ["Failed", shown(failed)],
    ["Waiting", shown(sum(m, "nv_inference_pending_request_count"))],
    ["Running", shown(perEngine(m, "nv_trt_llm_request_metrics", { request_type: "active" }) ?? NaN)],
    ["Tokens out", shown(sum(m, "ingot_generated_tokens_total") ?? NaN)],
    ["Tokens reused", shown(sum(m, "ingot_kv_reused_tokens_total") ?? NaN)],
    ["CPU", shown((sum(m, "nv_cpu_utilization") ?? NaN) * 100) + " %"],
  ];
  $("tiles").replaceChildren(...rows.map(([name, value]) => {
    const div = document.createElement("div"), b = document.createElement("b"), span = document.createElement("span");
    div.className = "tile"; b.textContent = value; span.textContent = name;
    div.append(b, span);
    return div;
  }));
}
// A map of the pages: one cell a page, or one for several where there are many. Models of one engine share a map.
function kvBlocks(m) {
  const family = "nv_trt_llm_kv_cache_block_metrics";
  const maps = new Map();  // the numbers -> models that report them
  for (const model of new Set((m.get(family) ?? []).map((r) => r.labels.model))) {
    const of = (type) => sum(m, family, { model, kv_cache_block_type: type }) ?? 0;
    const key = JSON.stringify({ most: of("max"), used: of("used"), kept: sum(m, "ingot_kv_cache_kept_pages", { model }) ?? 0, tokens: of("tokens_per") });
    maps.set(key, [...(maps.get(key) ?? []), model]);
  }
  if (!maps.size) { $("kv").textContent = "No model reports one."; return; }
  $("kv").replaceChildren(...[...maps].map(([key, names]) => {
    const { most, used, kept, tokens } = JSON.parse(key), cells = Math.min(most, 480), each = most / Math.max(1, cells);
    const div = document.createElement("div"), p = document.createElement("p"), map = document.createElement("div");
    p.textContent = `${names.join(", ")}: ${used} of ${most} pages in use (${(used / Math.max(1, most) * 100).toFixed(1)} %), ${kept} kept for reuse, ${tokens} tokens a page`;
    map.className = "kv-map";
    map.setAttribute("role", "img");
    map.setAttribute("aria-label", p.textContent);
    for (let i = 0; i < cells; ++i) {
      const cell = document.createElement("i"), page = i * each;
      cell.className = page < used ? "used" : page < used + kept ? "kept" : "";
      map.append(cell);
    }
    const legend = document.createElement("p");
    legend.className = "legend";
    for (const [cls, text] of [["used", "in use"], ["kept", "kept for reuse"], ["", "free"]]) {
      const i = document.createElement("i");
      i.className = cls;
      legend.append(i, text);
    }
    if (each > 1) {
      const note = document.createElement("span");
      note.textContent = `a cell is ${each.toFixed(1)} pages`;
      legend.append(note);
    }
    div.append(p, map, legend);
    return div;
  }));
}
async function control(name, action) {
  $("model-message").textContent = `${action}ing ${name} …`;
  const r = await fetch(`/v2/repository/models/${encodeURIComponent(name)}/${action}`, { method: "POST" });
  $("model-message").textContent = r.ok ? `${name}: ${action}ed` : (await r.json()).error;
  await Promise.all([refresh(), loadModels()]);
}
async function refreshModels(m) {
  const index = await (await fetch("/v2/repository/index", { method: "POST" })).json();
  const focused = document.activeElement?.getAttribute("aria-label");
  $("models").replaceChildren(...index.map((row) => {
    const where = { model: row.name, version: row.version };
    const done = sum(m, "nv_inference_request_success", where), us = sum(m, "nv_inference_request_duration_us", where);
    const tr = document.createElement("tr");
    const cell = (text, cls) => { const td = document.createElement("td"); td.textContent = text; td.className = cls ?? ""; tr.append(td); return td; };
    cell(row.name); cell(row.version ?? "–");
    cell(row.state === "UNAVAILABLE" && row.reason ? `${row.state}: ${row.reason}` : row.state ?? "not loaded", "state-" + row.state);
    cell(shown(done ?? NaN), "number"); cell(shown(sum(m, "nv_inference_request_failure", where) ?? NaN), "number");
    cell(shown(sum(m, "nv_inference_pending_request_count", where) ?? NaN), "number");
    cell(done ? shown(us / done / 1000, 1) : "–", "number");
    const button = document.createElement("button");
    const action = row.state === "READY" ? "unload" : "load";
    button.textContent = action[0].toUpperCase() + action.slice(1);
    button.setAttribute("aria-label", `${action} ${row.name}`);
    button.addEventListener("click", () => control(row.name, action));
    cell("", "number").append(button);
    return tr;
  }));
  // The rows are new: whoever was on a button by keyboard stays there.
  if (focused) [...$("models").querySelectorAll("button")].find((b) => b.getAttribute("aria-label") === focused)?.focus();
}
async function refresh() {
  let m;
  try {
    m = parseMetrics(await (await fetch("/metrics")).text());
    const ready = (await fetch("/v2/health/ready")).ok;
    $("health").textContent = ready ? "ready" : "not ready";
    $("health").className = "health " + (ready ? "good" : "bad");
  } catch {
    $("health").textContent = "no connection";
    $("health").className = "health bad";
    return;
  }
  const now = performance.now();
  push(history.ttft, meanSince(m, "ingot_time_to_first_token_seconds") ?? NaN);
  push(history.itl, meanSince(m, "ingot_inter_token_latency_seconds") ?? NaN);
  const tokens = sum(m, "ingot_generated_tokens_total");
  push(history.rate, before && tokens !== null ? (tokens - (sum(before.metrics, "ingot_generated_tokens_total") ?? 0)) * 1000 / (now - before.time) : NaN);
  push(history.queue, perEngine(m, "nv_trt_llm_request_metrics", { request_type: "active" }) ?? 0);
  push(history.waiting, sum(m, "nv_inference_pending_request_count") ?? 0);
  before = { metrics: m, time: now };
  if ($("status").hidden) return;
  tiles(m);
  kvBlocks(m);
  for (const id of ["ttft", "itl", "rate"]) {
    draw(id, history[id]);
    const known = history[id].filter(Number.isFinite);
    $(id + "-now").textContent = shown(known.at(-1), id === "rate" ? 1 : 0);
  }
  draw("queue", history.queue, history.waiting);
  $("queue-now").textContent = `${history.queue.at(-1)} + ${history.waiting.at(-1)}`;
  await refreshModels(m);
}

// --- Console ---
const pretty = (v) => JSON.stringify(v, null, 1);
const calls = [
  ["Generate", "POST", "/v2/models/{m}/generate", { text_input: "What is machine learning?", max_tokens: 64, bad_words: "", stop_words: "" }],
  ["Generate, streamed", "POST", "/v2/models/{m}/generate_stream", { text_input: "What is machine learning?", max_tokens: 64, stream: true }],
  ["Infer", "POST", "/v2/models/{m}/infer", { inputs: [{ name: "text_input", datatype: "BYTES", shape: [1, 1], data: ["Hello"] }, { name: "max_tokens", datatype: "INT32", shape: [1, 1], data: [16] }] }],
  ["OpenAI chat", "POST", "/v1/chat/completions", { model: "{m}", messages: [{ role: "user", content: "Hello" }], max_tokens: 64, stream: true }],
  ["OpenAI completion", "POST", "/v1/completions", { model: "{m}", prompt: "Hello", max_tokens: 32 }],
  ["OpenAI response", "POST", "/v1/responses", { model: "{m}", input: "Hello", max_output_tokens: 64 }],
  ["OpenAI embedding", "POST", "/v1/embeddings", { model: "{m}", input: "Hello" }],
  ["Anthropic message", "POST", "/v1/messages", { model: "{m}", max_tokens: 64, messages: [{ role: "user", content: "Hello" }] }],
  ["Server metadata", "GET", "/v2"], ["Server ready", "GET", "/v2/health/ready"], ["Model metadata", "GET", "/v2/models/{m}"],
  ["Model config", "GET", "/v2/models/{m}/config"], ["Model statistics", "GET", "/v2/models/{m}/stats"],
  ["Repository index", "POST", "/v2/repository/index", {}], ["Load model", "POST", "/v2/repository/models/{m}/load", {}],
  ["Unload model", "POST", "/v2/repository/models/{m}/unload", {}], ["Log settings", "GET", "/v2/logging"],
  ["Trace settings", "GET", "/v2/trace/setting"], ["Shared memory", "GET", "/v2/systemsharedmemory/status"],
  ["OpenAI models", "GET", "/v1/models"], ["Metrics", "GET", "/metrics"],
];
$("call").replaceChildren(...calls.map(([name, method, path], i) => new Option(`${name}  (${method} ${path})`, i)));
const call = () => calls[$("call").value];
function fillCall() {
  const [, method, path, body] = call(), m = $("call-model").value || "ensemble";
  $("call-path").value = path.replace("{m}", encodeURIComponent(m));
  $("call-body").value = body ? pretty(body).replaceAll("{m}", m) : "";
  $("call-body-label").hidden = method === "GET";
  curl();
}
function curl() {
  const [, method] = call(), quote = (s) => "'" + s.replaceAll("'", "'\\''") + "'";
  let compact = $("call-body").value;
  try { compact = JSON.stringify(JSON.parse(compact)); } catch { /* shown as typed */ }
  const streams = /"stream":\s*true/.test(compact) ? " -N" : "";
  $("call-curl").textContent = `curl${streams}${method === "POST" ? " -X POST" : ""} ${location.origin}${$("call-path").value}` +
    (method === "POST" && compact ? ` \\\n  -H 'Content-Type: application/json' \\\n  -d ${quote(compact)}` : "");
}
async function sendCall() {
  const [, method] = call(), start = performance.now(), out = $("call-answer");
  out.textContent = "";
  $("call-status").textContent = "…";
  try {
    const r = await fetch($("call-path").value, method === "POST" ? { method, body: $("call-body").value, headers: { "Content-Type": "application/json" } } : {});
    const stream = r.headers.get("content-type")?.startsWith("text/event-stream");
    if (stream) {
      const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part; !(part = await reader.read()).done;) out.append(part.value);
    } else {
      const text = await r.text();
      try { out.textContent = pretty(JSON.parse(text)); } catch { out.textContent = text || "(empty body)"; }
    }
    $("call-status").textContent = `${r.status} ${r.statusText}, ${(performance.now() - start).toFixed(0)} ms`;
  } catch (e) {
    $("call-status").textContent = e.message;
  }
}
$("call").addEventListener("change", fillCall);
$("call-model").addEventListener("change", fillCall);
for (const id of ["call-path", "call-body"]) $(id).addEventListener("input", curl);
$("call-send").addEventListener("click", sendCall);
$("console").addEventListener("keydown", (e) => { if (e.key === "Enter" && e.ctrlKey) { e.preventDefault(); sendCall(); } });
$("call-copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText($("call-curl").textContent); $("call-status").textContent = "copied"; }
  catch { getSelection().selectAllChildren($("call-curl")); $("call-status").textContent = "press Ctrl+C"; }
});

show();
preview();
loadModels().catch((e) => bubble("error", "No models: " + e.message)).then(fillCall);
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 2000);

// What can be asked in words: views, and statements that the page can make.
// Each topic has words that name it, a title, what it says and where it leads.
const IGNORED = new Set(["a", "an", "and", "at", "did", "do", "does", "happened", "how", "in", "is", "it", "me", "of", "on", "show", "the", "to", "was", "were", "what", "which", "who", "with"]);

function topics() {
  const misses = steps.flatMap((step) => step.near.map((miss) => ({ step, miss })));
  return [
    topic("start overview layers steps pipeline model parameters dtype", "start", "the compile in a few lines", { start: "" }),
    topic("verdict right correct wrong proof proved prove verify counts expected matches", "verdict",
      `${DATA.verdict.counts} ${DATA.verdict.proof}`, { checks: "" }),
    topic("near miss misses why not fused reason lost missing", "near misses",
      misses.length ? `${misses.length}, with the conditions that failed` : "none: nothing nearly matched and was left out", { checks: "" }),
    ...misses.slice(0, 20).map(({ step, miss }) => topic(`near miss misses why not fused ${step.name} ${layerName(miss.layer)}`,
      `why not ${step.name}`, `${layerName(miss.layer)}: ${miss.condition}`, { pass: step.name, layer: layerKey(miss.layer), node: miss.node })),
    topic("guards versions vendor functions keywords requirements", "guards", "what must hold where the artifact is loaded", { checks: "" }),
    ...mainFirst().flatMap(planTopics),
    topic("passes before after diff", "passes", "before and after each pass", { pass: "" }),
    topic("graph picture boxes", "graph", "a layer as a picture", { graph: "" }),
    ...slowTopics(),
    ...alignedTopics(),
  ];
}

const topic = (words, title, detail, address) => ({ kind: "view", words: words.toLowerCase().split(" "), title, detail, address });

function planTopics(plan) {
  const { most, peak } = alive(plan);
  const sizes = DATA.memory ? `, weights ${bytes(DATA.memory.weights)}, cache ${bytes(DATA.memory.token)} a token` : "";
  return [
    topic(`memory arena weights cache bytes fit size buffers ${plan.phase}`, `memory of ${plan.phase}`, `arena ${bytes(plan.arenaBytes)}${sizes}`, { memory: plan.phase }),
    topic(`peak memory arena most alive ${plan.phase}`, `peak of ${plan.phase}`, `${bytes(most)} of the arena alive at call ${peak}`, { memory: plan.phase }),
    topic(`kernels calls plan lowering lower ${plan.phase}`, `kernel calls of ${plan.phase}`, plural(callCount(plan), "call"), { kernels: plan.phase }),
  ];
}

// Where the time goes: by a timeline where there is one, by bytes otherwise.
function slowTopics() {
  const plan = planNamed();
  if (!plan) return [];
  const words = `slow slowest time timeline fast latency heavy bytes largest ${plan.phase}`;
  const calls = plan.blocks.flatMap((block) => block.calls.map((call) => ({ block, call, number: callNumber(block, call, block.layer) })));
  const size = ({ call, number }) => (plan.seconds ? plan.seconds[number] || 0 : call.weights + call.buffers);
  const first = topic(words, "slowest calls", plan.seconds ? "by the timeline" : "no timeline is at hand: these name the most bytes", { kernels: plan.phase });
  return [first, ...calls.sort((a, b) => size(b) - size(a)).slice(0, 5).map((each) => topic(words, TEXT[each.call.function],
    `${plan.seconds ? timeText(size(each)) : bytes(size(each))}, ${layerSpan([each.block.layer, ...each.block.like])}, ${plan.phase}`,
    { kernels: plan.phase, layer: layerKey(each.block.layer), call: each.number }))];
}

// Where an alignment first diverges.
function alignedTopics() {
  if (!ALIGNED) return [];
  return [topic("alignment aligned align divergence diverges error errors accuracy precision heat map wrong", "first divergence",
    ALIGNED.first ? ALIGNED.first : `none from ${ALIGNED.expected}`, ALIGNED.first ? { node: ALIGNED.first } : { start: "" })];
}

// The same of one layer.
function layerTopics(layer) {
  const key = String(layer);
  const own = [
    topic("story pass passes verdict right proof who why changed", `layer ${layer}`, "its story: passes, verdict, kernels", { layer: key }),
    topic("picture graph boxes", `layer ${layer}`, "as a picture", { graph: key }),
    ...mainFirst().flatMap((plan) => [
      topic(`kernels calls bytes slow time ${plan.phase}`, `layer ${layer}`, `kernel calls of ${plan.phase}`, { kernels: plan.phase, layer: key }),
      topic(`memory peak buffers arena ${plan.phase}`, `layer ${layer}`, `memory of ${plan.phase}`, { memory: plan.phase, layer: key })]),
    ...steps.flatMap((step) => step.near.filter((miss) => miss.layer === layer).map((miss) => topic(`near miss misses why not fused ${step.name}`,
      `why not ${step.name}`, miss.condition, { pass: step.name, layer: key, node: miss.node }))),
  ];
  return own.map((each) => ({ ...each, kind: "layer" }));
}

const asked = (some, words) => some.filter((each) => words.every((word) => each.words.some((own) => own.startsWith(word))));

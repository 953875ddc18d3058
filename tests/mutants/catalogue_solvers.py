"""Mistakes that people make in fast solvers, as edits of the torch backend's `solvers` and `solving`, for `catalogue`."""

from __future__ import annotations

ORDERS = "n.steps - k if n.steps < v.lower_below else order)"
SLOPE = "slope = _columns(h / h1, -h / h1)"
MULTISTEP = "return _table(s, keep, {v.form: _columns(first) + past}, noise)"
HEUN = "{k: 1 / 2, k + 1: 1 / 2}"
KUTTA = "{k: 1 / 6, k + 1: 1 / 3, k + 2: 1 / 3, k + 3: 1 / 6}"
PLMS = "(0, 0, 1, {0: 1 / 2, 1: 1 / 2})"
NOISE = "torch.sqrt(-torch.expm1(-2 * v.eta / (1 + v.eta) * H))"
KEPT = "kept = functools.lru_cache(maxsize=32)(coefficients)\n"
KEEP = ("_rows_of = dict[SolverPlan, Coefficients]()\n\n\ndef kept(plan: SolverPlan) -> Coefficients:\n"
        "    key = __import__(\"dataclasses\").replace(plan, %s)\n    return _rows_of.setdefault(key, coefficients(plan))\n")

SOLVER_MISTAKES: tuple[tuple[str, ...], ...] = (
    # Multistep.
    ("L1", "the history's sign swapped", "solvers", SLOPE, "slope = _columns(-h / h1, h / h1)"),
    ("L1", "the ratio of two steps inverted", "solvers", SLOPE, "slope = _columns(h1 / h, -h1 / h)"),
    ("L1", "the ratio of two steps taken for 1", "solvers", SLOPE, "slope = _columns(h * 0 + 1, h * 0 - 1)"),
    ("L1", "the first difference without its half", "solvers", "past = torch.where(p == 3, three, torch.where(p == 2, two, 0.0))",
     "past = torch.where(p == 3, three, torch.where(p == 2, 2 * two, 0.0))"),
    ("L1", "midpoint and taylor swapped", "solvers", "(first / 2 if v.second == \"midpoint\" else second)",
     "(first / 2 if v.second == \"taylor\" else second)"),
    ("L1", "a first step of second order without a history", "solvers", "[min(order, k + 1,", "[min(order, max(k + 1, 2),"),
    ("L1", "third order started by orders 1, 1, 3", "solvers", "[min(order, k + 1,", "[min(order, 1 if k < 2 else k + 1,"),
    ("L1", "the two earlier steps exchanged", "solvers", "h1, h2 = _earlier(h, 1), _earlier(h, 2)", "h2, h1 = _earlier(h, 1), _earlier(h, 2)"),
    ("L1", "the earlier difference over the newer one's step", "solvers", "-h / h2)", "-h / h1)"),
    ("L1", "the first difference of third order not extrapolated", "solvers", "bent = second * h1 / (h1 + h2) +", "bent ="),
    ("L1", "the second difference dropped", "solvers", " + scale * third * h / (h1 + h2)", ""),
    ("L1", "the second difference's sign", "solvers", " + scale * third * h", " - scale * third * h"),
    ("L1", "the public third order for the exact one", "solvers", "{\"exact\": 2 * H * _phi(3, q)", "{\"exact\": H * _phi(3, q)"),
    ("L1", "the exact third order for the public one", "solvers", "\"public\": H * _phi", "\"public\": 2 * H * _phi"),
    ("L1", "a code's wrong sign put right", "solvers", "H * _phi(3, q) - 1}", "1 - H * _phi(3, q)}"),
    ("L1", "orders lowered at the end of one step more", "solvers", ORDERS, ORDERS.replace("<", "<=")),
    ("L1", "orders always lowered at the end", "solvers", ORDERS, "n.steps - k)"),
    ("L1", "orders never lowered at the end", "solvers", ORDERS, "order)"),
    ("L1", "the step before the last not lowered", "solvers", ORDERS, "1 if k == n.steps - 1 and n.steps < v.lower_below else order)"),
    ("L1", "full order in a step to sigma = 0", "solvers", "if n.clean or v.lower_last:", "if v.lower_last:"),
    ("L1", "the last step lowered to sigma = 0 alone", "solvers", "if n.clean or v.lower_last:", "if n.clean:"),
    # Forms.
    ("L1", "the whole log-SNR for its half", "solving", "torch.log(alpha) - torch.log(sigma)", "2 * (torch.log(alpha) - torch.log(sigma))"),
    ("L1", "sigma over alpha for sigma", "solving", "nodes = Nodes(alpha, sigma,", "nodes = Nodes(alpha, sigma / alpha,"),
    ("L1", "alphas' ratio kept where x0 is interpolated", "solvers", "keep = n.sigma[t] / n.sigma[s]\n    return", "keep = n.alpha[t] / n.alpha[s]\n    return"),
    ("L1", "sigmas' ratio kept where eps is interpolated", "solvers", "return n.alpha[t] / n.alpha[s], -", "return n.sigma[t] / n.sigma[s], -"),
    ("L1", "the start's alpha in the weights of x0", "solvers", "n.alpha[t], -H, H", "n.alpha[s], -H, H"),
    ("L1", "the start's sigma in the weights of eps", "solvers", "-n.sigma[t], H, H", "-n.sigma[s], H, H"),
    ("L1", "e^h for e^-h", "solvers", "n.alpha[t], -H, H", "n.alpha[t], H, H"),
    ("L1", "the step to sigma = 0 has no limit of eps", "solvers", "torch.where(scale == 0, -keep * n.sigma[s], scale * torch.expm1(q))", "scale * torch.expm1(q)"),
    ("L1", "phi by too short a series", "solvers", "range(19, -1, -1)", "range(6, -1, -1)"),
    ("L1", "phi with the factorial of the one before", "solvers", "1 / math.factorial(i - 1)) / q", "1 / math.factorial(i)) / q"),
    # Noise.
    ("L1", "an SDE's noise of e^-h", "solvers", NOISE, NOISE.replace("-2 * v.eta", "-v.eta")),
    ("L1", "an SDE's noise with the start's sigma", "solvers", f"n.sigma[t] * {NOISE}", f"n.sigma[s] * {NOISE}"),
    ("L1", "an SDE keeps as much as the ODE", "solvers", "return keep * torch.exp(-v.eta / (1 + v.eta) * H) if v.eta else keep,", "return keep,"),
    ("L1", "an SDE weighs x0 as the ODE", "solvers", "n.alpha[t], -H, H", "n.alpha[t], -H / (1 + v.eta), H / (1 + v.eta)"),
    ("L1", "an SDE's noise one step late", "solvers", MULTISTEP, MULTISTEP.replace("noise)", "noise if noise is None else _earlier(noise, 1))")),
    ("L1", "no noise in an SDE's last noisy step", "solvers", MULTISTEP, MULTISTEP.replace(
        "noise)", "noise if noise is None else noise * (torch.arange(n.steps) < n.steps - 2))")),
    ("L1", "eta under DDIM's root", "solvers", "noise = v.eta * n.sigma[t]", "noise = v.eta**0.5 * n.sigma[t]"),
    ("L1", "DDIM's eps without its noise's share", "solvers", "torch.sqrt(1 - v.eta**2 + v.eta**2 * share)", "torch.sqrt(1 + 0 * share)"),
    ("L1", "DDPM's noise in a solver's last step", "solvers", "    noise = torch.cat((noise[:-1], _zeros(1)))\n", ""),
    ("L1", "DDPM's variances swapped in the solver", "solvers", "beta if v.variance == \"large\"", "beta if v.variance == \"small\""),
    ("L1", "the same noise at every call", "solving", "* noise(k)", "* noise(0)"),
    ("L1", "noise asked for where a row has none", "solving", "if noise is not None and row.noise:", "if noise is not None:"),
    # Two calls a step.
    ("L1", "the second call of 2S starts from the middle", "solvers", "return _table(s, keep, {v.form: weights}, node=_steps(n)[0])",
     "return _table(_steps(n)[0], keep, {v.form: weights})"),
    ("L1", "2S weighs the wrong difference", "solvers", "_columns(share, first - share)", "_columns(first - share, share)"),
    ("L1", "2S takes the middle for the end", "solvers", " * H / _earlier(H, 1)  #", "  #"),
    ("L1", "midpoint and taylor swapped in 2S", "solvers", "(first / 2 if v.second == \"midpoint\" else scale", "(first / 2 if v.second == \"taylor\" else scale"),
    ("L1", "2S never lowers its last step", "solvers", " and not (k + 2 == n.steps and n.steps < v.lower_below)", ""),
    ("L1", "2S of second order to sigma = 0", "solvers", "if k + 2 <= n.steps - n.clean", "if k + 2 <= n.steps"),
    ("L1", "Heun corrects the predicted state", "solvers", f"(k, s, t, {HEUN})", f"(k + 1, s, t, {HEUN})"),
    ("L1", "Heun's second slope alone", "solvers", HEUN, "{k + 1: 1}"),
    ("L1", "Heun's second slope unused", "solvers", HEUN, "{k: 1}"),
    ("L1", "Heun's last corrected step left to Euler", "solvers", "if t < n.steps or not n.clean", "if t < n.steps - 1 or not n.clean"),
    ("L1", "Heun's last step is Euler's above sigma = 0, too", "solvers", "if t < n.steps or not n.clean", "if t < n.steps"),
    ("L1", "a step in sigma, not in sigma over alpha", "solvers", "(n.sigma[t] - keep * n.sigma[s])", "(n.sigma[t] - n.sigma[s])"),
    # Linear multistep.
    ("L1", "Adams-Bashforth's weights reversed", "solvers", "(55 / 24, -59 / 24, 37 / 24, -9 / 24)", "(-9 / 24, 37 / 24, -59 / 24, 55 / 24)"),
    ("L1", "-55 for -59", "solvers", "-59 / 24", "-55 / 24"),
    ("L1", "the oldest slope first", "solvers", "zip(past[::-1],", "zip(past,"),
    ("L1", "three slopes of four", "solvers", "[*past, len(rows)][-4:]", "[*past, len(rows)][-3:]"),
    ("L1", "PLMS keeps its second call, too", "solvers", "[0], MORE_LAGS[\"plms\"]", "[0, 1], MORE_LAGS[\"plms\"]"),
    ("L1", "PLMS keeps its second call in the first one's place", "solvers", "[0], MORE_LAGS[\"plms\"]", "[1], MORE_LAGS[\"plms\"]"),
    ("L1", "PLMS' second call starts from the predicted state", "solvers", PLMS, PLMS.replace("(0, 0,", "(1, 0,")),
    ("L1", "PLMS' first mean not taken", "solvers", PLMS, "(0, 0, 1, {1: 1})"),
    ("L1", "Runge-Kutta's slopes weighed alike", "solvers", KUTTA, "{k: 1 / 4, k + 1: 1 / 4, k + 2: 1 / 4, k + 3: 1 / 4}"),
    ("L1", "PNDM keeps the last slope of a step", "solvers", "[0, 4, 8], MORE", "[3, 7, 11], MORE"),
    ("L1", "Runge-Kutta's third slope only to the middle", "solvers", "(k, s, s + 2, {k + 2: 1})", "(k, s, s + 1, {k + 2: 1})"),
    # UniPC.
    ("L1", "UniPC without its corrector", "solvers", "predictor + keep[:, None] * correction", "predictor"),
    ("L1", "UniPC's correction not scaled by the step", "solvers", "predictor + keep[:, None] * correction", "predictor + correction"),
    ("L1", "UniPC corrects without taking the prediction back", "solvers", "(corrector - shifted)[:-1]", "corrector[:-1]"),
    ("L1", "UniPC's corrector of order 1 solved", "solvers", "after = half if of == 1 else", "after ="),
    ("L1", "UniPC's predictor of order 2 solved", "solvers", "before = half if of == 2 else", "before ="),
    ("L1", "UniPC's b with one factorial more", "solvers", "[math.factorial(i) * q", "[math.factorial(i + 1) * q"),
    ("L1", "bh1 and bh2 swapped", "solvers", "B = q if v.basis == \"bh1\" else", "B = q if v.basis == \"bh2\" else"),
    ("L1", "UniPC's sign where x0 is interpolated", "solvers", "(-1 if v.form == \"x0\" else 1)", "(1 if v.form == \"x0\" else -1)"),
    ("L1", "UniPC's past nodes ahead", "solvers", "[(_earlier(lam, i) - lam) / h", "[(lam - _earlier(lam, i)) / h"),
    ("L1", "UniPC's corrector of the coming step's order", "solvers", "corrector = torch.where(p == of,", "corrector = torch.where(torch.cat((p[1:], p[-1:])) == of,"),
    # The loop.
    ("L1", "a solver's eps not re-derived after clipping", "solving", "    return x0, (x - alpha * x0) / sigma\n", "    return x0, eps\n"),
    ("L1", "a solver's x0 not clipped", "solving", "if plan.clip == \"none\":", "if True:"),
    ("L1", "a solver's eps re-derived, x0 kept unclipped", "solving", "    x0 = clip_x0(x0, plan)\n    return x0, (x - alpha * x0) / sigma",
     "    return x0, (x - alpha * clip_x0(x0, plan)) / sigma"),
    ("L1", "sign of v in a solver's x0", "solving", "alpha * x - sigma * output, sigma", "alpha * x + sigma * output, sigma"),
    ("L1", "sign of v in a solver's eps", "solving", "sigma * x + alpha * output", "sigma * x - alpha * output"),
    ("L1", "a solver reads x0 as v", "solving", "plan.diffusion.objective == \"x0\"", "plan.diffusion.objective == \"X0\""),
    ("L1", "every row starts from the last state", "solving", "row.keep * held[\"x\", row.anchor]", "row.keep * seen"),
    ("L1", "x_T not scaled as the code does", "solving", "plan.start * x}", "x}", "float64"),
    ("L1", "the variance's channels stay in a solver's path", "solving", "network(seen, k, x0)[:, : x.shape[1]]", "network(seen, k, x0)"),
    ("L1", "a call inside a step is told the step's t", "solving", "network_t[table.node]", "network_t[[table.node[k] for k in table.anchor]]"),
    ("L1", "a solver's network is told the next t", "solving", "network_t[table.node]", "network_t[[k + 1 for k in table.node]]"),
    ("L1", "a solver's network is told t rounded", "solving", "torch.tensor(plan.network_t, dtype=F64)", "torch.tensor(plan.network_t, dtype=F64).round()"),
    ("L5", "self-conditioning forgotten in a solver's path", "solving", "network(seen, k, x0)", "network(seen, k, torch.zeros_like(x0))"),
    ("L5", "the solvers' network is told the call's number", "backend", "t = c[\"network_t\"]",
     "t = (torch.arange(len(c[\"network_t\"])).double() if isinstance(plan, SolverPlan) else c[\"network_t\"])"),
    ("L1", "rows kept whatever the variant", "solving", KEPT, KEEP % "variant=type(plan.variant)()"),
)

r"""The equations in TeX, for the site: forward and gradient of each row of minqwen.check.concepts.

The letters are those of the docstring in the concept's file; a test compares them. What no row of
the table has, because nothing flows back through it, stands in FORWARD_ONLY under its module.
"""

from __future__ import annotations

from typing import NamedTuple


class Equation(NamedTuple):
    """TeX of what a concept computes, and of what flows back; \\\\ starts a new line."""

    forward: str
    gradient: str


ATTENTION_GRADIENT = r"""
dv &= P^\top \mathit{dout} \qquad dP = \mathit{dout}\, v^\top \\
ds_{ij} &= P_{ij}\,(dP_{ij} - \mathit{delta}_i) \\
\mathit{delta}_i &= \textstyle\sum_j dP_{ij} P_{ij} \\
dq &= \mathit{scale} \cdot ds\, k \qquad dk = \mathit{scale} \cdot ds^\top q"""
ROPE_GRADIENT = r"dx = dy \odot \cos - \operatorname{rotate\_half}(dy) \odot \sin"

EQUATIONS = {
    "linear": Equation(
        r"y_{no} = \sum_i x_{ni} w_{oi} + b_o \qquad y = x w^\top + b",
        r"dx = dy\, w \qquad dw = dy^\top x \qquad db_o = \sum_n dy_{no}",
    ),
    "embedding": Equation(
        r"x_n = w[\mathit{ids}_n]",
        r"dw[v] = \sum_{n \,:\, \mathit{ids}_n = v} dx_n",
    ),
    "rmsnorm": Equation(
        r"y = w \odot \frac{x}{\operatorname{rms}(x)} \qquad "
        r"\operatorname{rms}(x) = \sqrt{\operatorname{mean}_i x_i^2 + \mathit{eps}}",
        r"""
r &= 1 / \operatorname{rms}(x) \qquad \hat{x} = r\, x \qquad g = dy \odot w \\
dx_i &= r\, \bigl(g_i - \hat{x}_i \operatorname{mean}_j (g_j \hat{x}_j)\bigr) \\
dw &= \textstyle\sum dy \odot \hat{x}""",
    ),
    "rope": Equation(
        r"""
\mathit{inv\_freq}_i &= \mathit{base}^{-2i / \mathit{Dh}} \\
a' &= a \cos(p\, \mathit{inv\_freq}_i) - b \sin(p\, \mathit{inv\_freq}_i) \\
b' &= a \sin(p\, \mathit{inv\_freq}_i) + b \cos(p\, \mathit{inv\_freq}_i)""",
        ROPE_GRADIENT,
    ),
    "attention": Equation(
        r"""
\mathit{out} &= \operatorname{softmax}(\mathit{scale} \cdot q k^\top, \text{hidden left out})\, v \\
G &= H / \mathit{Hkv}: \text{ query head } h \text{ reads key/value head } \lfloor h / G \rfloor""",
        ATTENTION_GRADIENT,
    ),
    "block_attention": Equation(
        r"\mathit{lse}_i = \log \sum_j \exp(s_{ij}) \qquad P_{ij} = \exp(s_{ij} - \mathit{lse}_i)",
        r"\mathit{delta}_i = \sum_j dP_{ij} P_{ij} = \sum_d \mathit{dout}_{id}\, \mathit{out}_{id}",
    ),
    "flash_attention": Equation(
        r"""
M' &= \max(M, \textstyle\max_j s_j) \qquad \mathit{shrink} = \exp(M - M') \\
w_j &= \exp(s_j - M') \\
Z' &= Z \,\mathit{shrink} + \textstyle\sum_j w_j \\
A' &= A \,\mathit{shrink} + \textstyle\sum_j w_j v_j \\
\mathit{out} &= A / Z \qquad \mathit{lse} = M + \log Z""",
        r"""
P_{ij} &= \exp(s_{ij} - \mathit{lse}_i) \\
dS_{ij} &= P_{ij}\,(\mathit{dout}_i \cdot v_j - \mathit{delta}_i) \\
dv_j &\mathrel{+}= \textstyle\sum_i P_{ij}\, \mathit{dout}_i \\
dk_j &\mathrel{+}= \mathit{scale} \textstyle\sum_i dS_{ij}\, q_i \\
dq_i &\mathrel{+}= \mathit{scale} \textstyle\sum_j dS_{ij}\, k_j""",
    ),
    "swiglu": Equation(
        r"""
\mathit{gate} &= x\, w_\mathit{gate}^\top \qquad \mathit{up} = x\, w_\mathit{up}^\top \\
y &= (\operatorname{silu}(\mathit{gate}) \odot \mathit{up})\, w_\mathit{down}^\top \\
\operatorname{silu}(a) &= a \operatorname{sigmoid}(a)""",
        r"""
dh &= dy\, w_\mathit{down} \qquad s = \operatorname{sigmoid}(\mathit{gate}) \\
\mathit{dup} &= dh \odot \operatorname{silu}(\mathit{gate}) \\
\mathit{dgate} &= dh \odot \mathit{up} \odot s\, (1 + \mathit{gate}\, (1 - s)) \\
dx &= \mathit{dgate}\, w_\mathit{gate} + \mathit{dup}\, w_\mathit{up}""",
    ),
    "dropout": Equation(
        r"y_i = \frac{x_i m_i}{1 - \mathit{rate}} \qquad "
        r"m_i = 0 \text{ with probability } \mathit{rate} \text{, else } 1",
        r"dx_i = \frac{dy_i m_i}{1 - \mathit{rate}}",
    ),
    "cross_entropy": Equation(
        r"""
\mathit{loss} &= \frac{1}{M} \sum_n c_n\, (\mathit{lse}_n - z_n[\mathit{label}_n]) \\
\mathit{lse}_n &= \log \textstyle\sum_v \exp(z_{nv})""",
        r"dz_{nv} = \mathit{dloss}\, \frac{c_n}{M}\, \bigl(p_{nv} - [v = \mathit{label}_n]\bigr)",
    ),
    "moe_router": Equation(
        r"""
z &= x w^\top \qquad p = \operatorname{softmax}(z) \\
e_1 \dots e_K &: \text{ the experts with the } K \text{ largest } p \\
q_k &= p_{e_k} \quad \text{or} \quad q_k = p_{e_k} / S, \quad S = \textstyle\sum_k p_{e_k}""",
        r"""
dp_{e_k} &= dq_k \quad \text{or} \quad dp_{e_k} = (dq_k - m) / S \\
m &= \textstyle\sum_k q_k\, dq_k \\
dz_e &= p_e\, \bigl(dp_e - \textstyle\sum_j p_j\, dp_j\bigr) \\
dx &= dz\, w \qquad dw = dz^\top x""",
    ),
    "load_balancing_loss": Equation(
        r"\mathit{loss} = E \sum_e f_e P_e \qquad "
        r"f_e = \frac{\text{choices of } e}{M K} \qquad P_e = \operatorname{mean}_n p_{ne}",
        r"""
g &= \mathit{dloss}\, E \qquad dp_{ne} = c_n\, g f_e / M \\
dz_{ne} &= c_n \frac{g}{M}\, p_{ne}\, \bigl(f_e - \textstyle\sum_j p_{nj} f_j\bigr)""",
    ),
    "router_z_loss": Equation(
        r"\mathit{loss} = \frac{1}{M} \sum_n c_n\, \mathit{lse}_n^2 \qquad "
        r"\mathit{lse}_n = \log \sum_e \exp(z_{ne})",
        r"dz_{ne} = \mathit{dloss}\, \frac{c_n}{M}\, 2\, \mathit{lse}_n\, p_{ne}",
    ),
    "moe_experts": Equation(
        r"y_n = \sum_k w_{nk}\, F_e(x_n) \qquad e = \mathit{expert\_ids}_{nk}, \quad "
        r"F_e = \mathrm{SwiGLU}",
        r"dw_{nk} = \langle F_{nk}, dy_n \rangle \qquad dF_{nk} = w_{nk}\, dy_n",
    ),
    "shared_expert": Equation(
        r"y_n = g_n\, S(x_n) \qquad "
        r"g_n = \operatorname{sigmoid}(\langle w_\mathit{shared\_gate}, x_n \rangle)",
        r"""
dS_n &= g_n\, dy_n \qquad dg_n = \langle S_n, dy_n \rangle \\
da_n &= dg_n\, g_n (1 - g_n)""",
    ),
    "moe": Equation(
        r"y = \sum_{e \,\text{chosen}} w_e F_e(x) + "
        r"\operatorname{sigmoid}(x\, w_\mathit{shared\_gate}^\top)\, S(x)",
        r"dx = dx_{\,\text{through the experts}} + dx_{\,\text{the router}} + "
        r"dx_{\,\text{the shared expert}}",
    ),
    "ntk": Equation(
        r"""
\mathit{base}' &= \mathit{base} \cdot \alpha^{\mathit{Dh} / (\mathit{Dh} - 2)} \\
\mathit{inv\_freq}'_i &= \mathit{base}'^{\,-2i / \mathit{Dh}}
  = \mathit{inv\_freq}_i \cdot \alpha^{-2i / (\mathit{Dh} - 2)}""",
        ROPE_GRADIENT,
    ),
    "yarn": Equation(
        r"""
\operatorname{dim}(n) &= \frac{\mathit{Dh} \ln(L / (2 \pi n))}{2 \ln \mathit{base}} \\
\mathit{ramp}_i &= \operatorname{clip}
  \Bigl(\frac{i - \mathit{low}}{\mathit{high} - \mathit{low}}, 0, 1\Bigr) \\
\mathit{inv\_freq}'_i &= \mathit{inv\_freq}_i\, (1 - \mathit{ramp}_i)
  + \frac{\mathit{inv\_freq}_i}{s}\, \mathit{ramp}_i \\
m &= 0.1 \ln(s) + 1 \qquad y = m R\, x""",
        r"dx = m R^\top dy",
    ),
    "logn": Equation(
        r"\lambda_p = \max\Bigl(1, \frac{\ln(p + 1)}{\ln L0}\Bigr) \qquad q' = \lambda_p\, q",
        r"dq = \lambda_p\, dq'",
    ),
    "window": Equation(
        r"""
&\text{query } i \text{ sees key } j \text{ where } i - W < j \le i \\
&\mathit{out} = \operatorname{softmax}
  (\mathit{scale} \cdot q k^\top, \text{hidden left out})\, v""",
        ATTENTION_GRADIENT,
    ),
    "dual_chunk_attention": Equation(
        r"""
&\text{key } j \text{ stands at } j \bmod s, \text{ query } i \text{ at} \\
&\quad i \bmod s && (n = 0) \\
&\quad \min(i \bmod s + s, \mathit{highest}) && (n = 1) \\
&\quad \min(2s - 1, \mathit{highest}) && (n \ge 2) \\
&n = \lfloor i / s \rfloor - \lfloor j / s \rfloor""",
        r"""
dq_b &= \mathit{scale} \cdot ds_b\, k \qquad
  dk = \mathit{scale} \textstyle\sum_b ds_b^\top q_b \\
dq &= \textstyle\sum_b R_b^\top\, dq_b""",
    ),
    "self_attention": Equation(
        r"""
q, k, v &= \text{projections of } x \text{, cut into heads} \\
y &= \operatorname{o\_proj}(\operatorname{attention}(\operatorname{rope}(q),
  \operatorname{rope}(k), v))""",
        r"dx = dx_{\,\text{through } q} + dx_{\,\text{through } k} + dx_{\,\text{through } v}",
    ),
    "feed_forward": Equation(
        r"y = \operatorname{swiglu}(x) \quad \text{or} \quad y = \operatorname{moe}(x)",
        r"dx = (\operatorname{swiglu} \text{ or } \operatorname{moe} \text{ backwards})(dy)",
    ),
    "router_loss": Equation(
        r"""
\mathit{router\_loss} &= \mathit{coef} \cdot \mathit{balance} + \mathit{z\_coef} \cdot z \\
\mathit{balance} &= \operatorname{mean}_{\text{layers}} E \textstyle\sum_e f_e P_e""",
        r"d \,\mathit{logits}_{\,\text{layer}} = \frac{1}{\text{number of layers}}\, "
        r"d \,\mathit{logits}_{\,\text{of that layer's losses}}",
    ),
    "decoder_block": Equation(
        r"""
h &= x + \operatorname{self\_attention}(\operatorname{rmsnorm}(x)) \\
y &= h + \operatorname{feed\_forward}(\operatorname{rmsnorm}(h))""",
        r"""
dh &= dy + (\operatorname{feed\_forward}, \operatorname{rmsnorm} \text{ backwards})(dy) \\
dx &= dh + (\text{the attention branch backwards})(dh)""",
    ),
    "language_model": Equation(
        r"""
\mathit{hidden} &= \operatorname{backbone}(\mathit{input\_ids}) \\
\mathit{logits} &= \mathit{hidden}\, w_\mathit{head}^\top""",
        r"""
d \,\mathit{hidden} &= \mathit{dlogits}\; w_\mathit{head} \\
d w_\mathit{head} &= \mathit{dlogits}^\top \mathit{hidden}
  \quad (\text{tied: + that of the embedding})""",
    ),
    "token_logprobs": Equation(
        r"l_t = s_t[\mathit{id}_t] - \log \sum_v \exp(s_{tv}) \qquad s = z / \mathit{temperature}",
        r"dz_{tv} = \frac{dl_t}{\mathit{temperature}}\, \bigl([v = \mathit{id}_t] - p_{tv}\bigr)",
    ),
    "sequence_logprobs": Equation(
        r"L_b = \sum_{t \,\in\, \text{answer}} l_{bt}",
        r"dl_{bt} = dL_b \text{ for a token of the answer, else } 0",
    ),
    "reward_head": Equation(
        r"r_b = \langle w,\, h_{b,\mathit{end}(b)} \rangle",
        r"dh_{b,\mathit{end}(b)} = dr_b\, w \qquad dw = \sum_b dr_b\, h_{b,\mathit{end}(b)}",
    ),
    "pairwise_loss": Equation(
        r"""
x_b &= \mathit{chosen}_b - \mathit{rejected}_b - \mathit{margin}_b \\
\mathit{loss} &= \operatorname{mean}_b \bigl(-\log \operatorname{sigmoid}(x_b)\bigr)""",
        r"""
\mathit{dchosen}_b &= -\frac{\mathit{dloss}}{B}\, \operatorname{sigmoid}(-x_b) \\
\mathit{drejected}_b &= -\mathit{dchosen}_b""",
    ),
    "dpo_loss": Equation(
        r"""
\mathit{reward} &= \mathit{beta}\, (\log \mathit{pi}(\mathit{answer})
  - \log \mathit{ref}(\mathit{answer})) \\
\mathit{lead}_b &= \mathit{reward}_{\,\text{chosen}} - \mathit{reward}_{\,\text{rejected}} \\
\mathit{loss} &= \operatorname{mean}_b \bigl(-\log \operatorname{sigmoid}(\mathit{lead}_b)\bigr)""",
        r"""
\mathit{dchosen}_b &= -\mathit{dloss}\, \frac{\mathit{beta}}{B}\,
  \operatorname{sigmoid}(-\mathit{lead}_b) \\
\mathit{drejected}_b &= -\mathit{dchosen}_b""",
    ),
    "ppo_policy_loss": Equation(
        r"""
\mathit{ratio} &= \exp(\log \mathit{pi} - \log \mathit{pi\_old}) \\
L_\mathit{policy} &= \operatorname{mean} \max\bigl(-A\, \mathit{ratio}, \\
  &\qquad -A \operatorname{clip}(\mathit{ratio}, 1 - c, 1 + c)\bigr)""",
        r"""
d \log \mathit{pi} &= 0 \quad \text{if } A > 0 \text{ and } \mathit{ratio} > 1 + c \\
  &= 0 \quad \text{if } A < 0 \text{ and } \mathit{ratio} < 1 - c \\
  &= -\frac{\mathit{dloss}}{M}\, A\, \mathit{ratio} \quad \text{else}""",
    ),
    "ppo_value_loss": Equation(
        r"""
\mathit{clipped} &= \operatorname{clip}(V, \mathit{V\_old} - \mathit{cv},
  \mathit{V\_old} + \mathit{cv}) \\
L_\mathit{value} &= \tfrac12 \operatorname{mean}
  \max\bigl((V - R)^2, (\mathit{clipped} - R)^2\bigr)""",
        r"""
dV &= \frac{\mathit{dloss}}{M}\, (V - R) \quad \text{if } |V - \mathit{V\_old}| \le \mathit{cv} \\
  &\qquad \text{or } (V - R)^2 > (\mathit{clipped} - R)^2 \\
  &= 0 \quad \text{else}""",
    ),
    "entropy": Equation(
        r"H = -\sum_v p_v \log p_v \qquad p = \operatorname{softmax}(z)",
        r"\frac{dH}{dz_u} = -p_u\, (\log p_u + H)",
    ),
    "exact_kl": Equation(
        r"\mathit{KL} = \sum_v p_v\, (\log p_v - \log q_v)",
        r"\frac{d\,\mathit{KL}}{dz_u} = p_u\, (\log p_u - \log q_u - \mathit{KL})",
    ),
}

FORWARD_ONLY = {
    "minqwen.training.adamw": r"""
m &= \mathit{beta1}\, m + (1 - \mathit{beta1})\, g \\
v &= \mathit{beta2}\, v + (1 - \mathit{beta2})\, g^2 \\
\hat{m} &= m / (1 - \mathit{beta1}^t) \qquad \hat{v} = v / (1 - \mathit{beta2}^t) \\
w &= (1 - \mathit{lr} \cdot \mathit{weight\_decay})\, w
  - \mathit{lr}\, \frac{\hat{m}}{\sqrt{\hat{v}} + \mathit{eps}}""",
    "minqwen.training.lr_schedule": r"""
\mathit{lr} &= \mathit{peak}\, (s + 1) / (W + 1) && s < W \\
\mathit{lr} &= \mathit{peak} \cdot c + \mathit{min} \cdot (1 - c) && W \le s < T \\
c &= \tfrac12 \bigl(1 + \cos(\pi (s - W) / (T - W))\bigr) \\
\mathit{lr} &= \mathit{min} && s \ge T""",
    "minqwen.training.grad_clip": r"""
\mathit{norm} &= \sqrt{\textstyle\sum g^2} \quad \text{over all tensors} \\
g &= g \cdot \min\Bigl(1, \frac{\mathit{max\_norm}}{\mathit{norm} + 10^{-6}}\Bigr)""",
    "minqwen.alignment.gae": r"""
\mathit{delta}_t &= r_t + \mathit{gamma}\, V_{t+1} - V_t \\
A_t &= \mathit{delta}_t + \mathit{gamma}\, \mathit{lam}\, A_{t+1} \\
R_t &= A_t + V_t""",
    "minqwen.alignment.whitening": r"""
y &= \frac{x - \mathit{mean}}{\sqrt{\mathit{var} + \mathit{eps}}} \\
\mathit{mean} &= \textstyle\sum_m x / M \qquad
  \mathit{var} = \textstyle\sum_m (x - \mathit{mean})^2 / M""",
    "minqwen.alignment.kl_penalty": r"""
r_t &= -\mathit{kl\_coef} \cdot \mathit{kl}_t + (\mathit{score} \text{ at the last token}) \\
d_t &= \log \mathit{pi}(a_t) - \log \mathit{ref}(a_t)""",
    "minqwen.data.minhash": r"""
J(d, e) &= \frac{|S(d) \cap S(e)|}{|S(d) \cup S(e)|} \\
h_j(x) &= (a_j x + b_j) \bmod p \qquad p = 2^{61} - 1 \\
\mathit{signature}_j(d) &= \min_{x \in S(d)} h_j(x)""",
    "minqwen.model.sampling": r"p = \operatorname{softmax}(\mathit{logits} / \mathit{temperature})",
}


def display(tex: str) -> str:
    r"""Return TeX for a display: lines that are aligned at & are put into an environment.

    >>> display("a = b"), display("a &= b")
    ('a = b', '\\begin{aligned}\na &= b\n\\end{aligned}')
    """
    if "&" not in tex:
        return tex.strip()
    return f"\\begin{{aligned}}\n{tex.strip()}\n\\end{{aligned}}"

"""The Transformer: token ids in, a score for every possible next token out.

Read: GPTConfig -> norm -> rotary -> Attention -> MLP -> Block -> GPT.
Called by pretrain.py and sft.py (with targets), by engine.py (with a cache).

Shapes: B batch, T time, C channels (n_embd), H query heads, G key/value heads, D head size,
V vocabulary, L layers, S keys seen (cached ones included).
Every newer feature is a switch in GPTConfig; `classic` turns them off for export.
Sources: GPT-2 (Radford 2019), RoPE (Su 2021), QK norm (Henry 2020), ReLU^2 (So 2021),
value embeddings and residual scalars (modded-nanogpt), softcapping (Gemma 2).
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat.attention import attend, visible_scores, window_mask
from nanochat.cross_entropy import capped, chunk_loss, mean_loss, token_losses, weighted_loss
from nanochat.errors import UserError
from nanochat.fused import Mix, Norm, ReluSquared, RotateNorm, call

VOCAB_MULTIPLE = 64  # the table has whole 64-row tiles; the extra rows are never predicted
SMEAR_CHANNELS, GATE_CHANNELS = 24, 12  # a gate reads only the first few channels


class BadModelConfig(UserError):
    """The sizes do not make a model."""


@dataclass(frozen=True)
class GPTConfig:
    """Everything that decides the shape of the model and the mathematics inside it."""

    sequence_len: int = 2048  # longest context, tokens
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6  # query heads
    n_kv_head: int = 6  # key/value heads; fewer than n_head is grouped-query attention
    n_embd: int = 768  # channels
    mlp: str = "relu2"  # relu2 | swiglu
    window_pattern: str = "SSSL"  # tiled over layers: S sees a quarter, L everything; last is L
    rope_base: float = 100_000.0
    qk_scale: float = 1.2  # sharpens attention after the norm
    softcap: float = 15.0  # logits stay inside (-softcap, softcap); 0 is off
    value_embeddings: bool = True
    residual_scalars: bool = True
    smear: bool = True
    backout: bool = True

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head or self.n_head % self.n_kv_head:
            raise BadModelConfig(
                f"{self.n_embd} channels, {self.n_head} heads, {self.n_kv_head} key/value heads: "
                "channels must divide by heads, heads by key/value heads"
            )
        if self.n_embd // self.n_head % 2:
            raise BadModelConfig(f"head size {self.n_embd // self.n_head} is odd: RoPE needs pairs")
        if self.mlp not in ("relu2", "swiglu") or set(self.window_pattern) - set("SL"):
            raise BadModelConfig(
                f"mlp {self.mlp}, window pattern {self.window_pattern}: "
                "choose relu2 or swiglu, and a pattern of S and L"
            )

    @property
    def head_size(self) -> int:
        return self.n_embd // self.n_head

    # @learn:architecture.sliding_window
    def windows(self) -> list[int]:
        """How many positions back each layer sees, itself not counted."""
        short = -(-self.sequence_len // 4 // 128) * 128
        sizes = {"L": self.sequence_len, "S": min(short, self.sequence_len)}
        pattern = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.n_layer)]
        return [sizes[letter] for letter in pattern[:-1]] + [self.sequence_len]

    # @learn:architecture.value_embeddings
    def has_value_embedding(self, layer: int) -> bool:
        """Every other layer, the last one always."""
        return self.value_embeddings and layer % 2 == (self.n_layer - 1) % 2


def classic(config: GPTConfig) -> GPTConfig:
    """The same sizes with the newer features off: what Hugging Face calls NanoChat."""
    return replace(
        config,
        mlp="relu2",
        window_pattern="L",
        rope_base=10_000.0,
        qk_scale=1.0,
        value_embeddings=False,
        residual_scalars=False,
        smear=False,
        backout=False,
    )


class Cache(Protocol):
    """What the model asks of a key/value cache (kv_cache.py has the real one)."""

    previous: Tensor | None  # (B, 1, C) embedding of the last token, before smear

    def positions(self, count: int) -> Tensor: ...  # (B, count) where the new tokens stand
    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]: ...
    def advance(self, count: int) -> None: ...


class Taps(Protocol):
    """What a forward pass shows to a trace (trace.py); a tap may hand back a changed tensor."""

    def begin(self, model: "GPT", idx: Tensor, cache: Cache | None) -> None: ...
    def wants(self, name: str, layer: int) -> bool: ...
    def __call__(self, name: str, x: Tensor, layer: int = -1) -> Tensor: ...


TAP: Taps | None = None  # set by trace.py alone; None costs one comparison at each tap


# @learn:optimization.mixed_precision
class Linear(nn.Linear):
    """A matrix without bias; fp32 weights, used in the format of the activations."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


# @learn:architecture.rmsnorm
def norm(x: Tensor) -> Tensor:
    """Divide each vector by its root mean square; no weights to learn."""
    return call(Norm, x)


# @learn:architecture.rope
def rotary_tables(config: GPTConfig, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles, each (length, D/2)."""
    half = torch.arange(0, config.head_size, 2) / config.head_size
    angles = torch.outer(torch.arange(length).float(), config.rope_base**-half)
    return angles.cos(), angles.sin()


# @learn:architecture.self_attention
class Attention(nn.Module):
    """Each token asks (q) all earlier ones (k) and takes a weighted mean of what they offer (v)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        C, kv = config.n_embd, config.n_kv_head * config.head_size
        self.q, self.k, self.v = Linear(C, C), Linear(C, kv), Linear(C, kv)
        self.out = Linear(C, C)
        gated = config.has_value_embedding(layer)
        self.gate = Linear(GATE_CHANNELS, config.n_kv_head) if gated else None

    # @learn:architecture.multi_head
    def forward(
        self, x: Tensor, value: Tensor | None, rope: tuple[Tensor, Tensor], cache: Cache | None
    ) -> Tensor:
        B, T, C = x.shape
        H, G, D = self.config.n_head, self.config.n_kv_head, self.config.head_size
        # @learn:architecture.multi_head
        q = self.q(x).view(B, T, H, D)  # (B, T, C) -> (B, T, H, D)
        k = self.k(x).view(B, T, G, D)
        v = self.v(x).view(B, T, G, D)
        if TAP is not None:
            q, k = TAP("attn.q", q, self.layer), TAP("attn.k", k, self.layer)
            v = TAP("attn.v", v, self.layer)
        # @learn:architecture.value_embeddings
        if self.gate is not None and value is not None:
            weight = 3 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS]))  # (B, T, G)
            value = value.view(B, T, G, D)
            if TAP is not None:
                weight = TAP("attn.value_gate", weight, self.layer)
                value = TAP("attn.value_embed", value, self.layer)
            v = v + weight[..., None] * value
            v = v if TAP is None else TAP("attn.v_mixed", v, self.layer)
        q = call(RotateNorm, q, *rope, self.config.qk_scale)
        k = call(RotateNorm, k, *rope, self.config.qk_scale)
        if TAP is not None:
            q, k = TAP("attn.q_normed", q, self.layer), TAP("attn.k_normed", k, self.layer)
        mask = None
        if cache is not None:
            k, v, mask = cache.update(self.layer, k, v)  # (B, S, G, D)
        window = self.config.windows()[self.layer]
        if TAP is not None and TAP.wants("attn.pattern", self.layer):
            seen = window_mask(T, window, x.device) if cache is None else mask
            y = self._attend_openly(TAP, q, k, v, seen)
        else:
            y = attend(q, k, v, window, mask, causal=k.size(1) == T)  # (B, T, H, D)
        y = y if TAP is None else TAP("attn.z", y, self.layer)
        return self.out(y.reshape(B, T, C))

    def _attend_openly(
        self, see: Taps, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        """`attend` step by step, so that a trace sees the scores and the pattern (B, H, T, S)."""
        scores = see("attn.scores", visible_scores(q, k, mask), self.layer)
        pattern = see("attn.pattern", torch.softmax(scores, dim=-1), self.layer)
        v = v.transpose(1, 2).repeat_interleave(q.size(2) // v.size(2), dim=1)  # (B, H, S, D)
        return (pattern @ v).transpose(1, 2)  # (B, T, H, D)


# @learn:architecture.mlp
class MLP(nn.Module):
    """Think about each token alone: widen, keep what is positive, narrow."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.kind, self.layer, C = config.mlp, layer, config.n_embd
        # SwiGLU has three matrices instead of two: 8/3 of the width keeps the same weight count.
        hidden = 4 * C if self.kind == "relu2" else -(-8 * C // 3 // 32) * 32
        self.up, self.down = Linear(C, hidden), Linear(hidden, C)
        self.gate = Linear(C, hidden) if self.kind == "swiglu" else None

    def forward(self, x: Tensor) -> Tensor:
        pre = self.up(x)  # (B, T, hidden)
        pre = pre if TAP is None else TAP("mlp.pre", pre, self.layer)
        if self.gate is not None:
            gate = self.gate(x)
            gate = gate if TAP is None else TAP("mlp.gate", gate, self.layer)
            post = F.silu(gate) * pre
        else:
            post = call(ReluSquared, pre)
        post = post if TAP is None else TAP("mlp.post", post, self.layer)
        return self.down(post)


# @learn:architecture.residual_stream
class Block(nn.Module):
    """Attention, then MLP; each adds its result to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(config, layer), MLP(config, layer)
        self.layer = layer

    def forward(
        self, x: Tensor, value: Tensor | None, rope: tuple[Tensor, Tensor], cache: Cache | None
    ) -> Tensor:
        inner = norm(x)
        inner = inner if TAP is None else TAP("ln1.normalized", inner, self.layer)
        out = self.attn(inner, value, rope, cache)
        out = out if TAP is None else TAP("attn_out", out, self.layer)
        x = x + out
        x = x if TAP is None else TAP("resid_mid", x, self.layer)
        inner = norm(x)
        inner = inner if TAP is None else TAP("ln2.normalized", inner, self.layer)
        out = self.mlp(inner)
        out = out if TAP is None else TAP("mlp_out", out, self.layer)
        x = x + out
        return x if TAP is None else TAP("resid_post", x, self.layer)


class GPT(nn.Module):
    """The whole model. `dtype` is the format of the activations; weights are fp32."""

    cos: Tensor  # (sequence_len, D/2), as sin
    sin: Tensor

    def __init__(self, config: GPTConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype, self.chunk_loss = config, dtype, chunk_loss
        C, L = config.n_embd, config.n_layer
        rows = -(-config.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
        # @learn:architecture.embeddings
        self.embed = nn.Embedding(rows, C)
        kv = config.n_kv_head * config.head_size
        self.values = nn.ModuleDict(
            {str(i): nn.Embedding(rows, kv) for i in range(L) if config.has_value_embedding(i)}
        )
        self.blocks = nn.ModuleList(Block(config, i) for i in range(L))
        self.head = Linear(C, rows)
        if config.residual_scalars:
            self.residual_scale = nn.Parameter(torch.ones(L))  # r: how much of x goes on
            self.input_scale = nn.Parameter(torch.zeros(L))  # a: how much of x0 comes back
        if config.smear:
            self.smear_gate = Linear(min(SMEAR_CHANNELS, C), 1)
            self.smear_scale = nn.Parameter(torch.zeros(1))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.zeros(1))
        cos, sin = rotary_tables(config, config.sequence_len)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    # @learn:architecture.weight_init
    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Draw every weight from `generator`; output projections start at zero."""
        C, L = self.config.n_embd, self.config.n_layer
        bound = (3 / C) ** 0.5
        self.embed.weight.normal_(0, 0.8, generator=generator)
        self.head.weight.normal_(0, 0.001, generator=generator)
        for weight in self.values.parameters():
            weight.uniform_(-bound, bound, generator=generator)
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                weight.zero_()
            elif name.endswith("attn.gate.weight"):
                weight.uniform_(0, 0.02, generator=generator)
            else:
                scale = 0.4 if ".mlp." in name else 1.0
                weight.uniform_(-bound * scale, bound * scale, generator=generator)
        if self.config.residual_scalars:
            self.residual_scale.copy_(torch.linspace(1.15, 1.05, L))
            self.input_scale.copy_(torch.linspace(0.20, 0.05, L))
        if self.config.smear:
            self.smear_gate.weight.uniform_(0, 0.02, generator=generator)
        if self.config.backout:
            self.backout_scale.fill_(0.2)

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        cache: Cache | None = None,
        reduction: str = "mean",
        last_only: bool = False,
        share: Tensor | None = None,
    ) -> Tensor:
        """Token ids (B, T) -> fp32 logits (B, T, V), or the loss against `targets` (B, T).

        reduction "mean" gives one number (nats per graded target, -1 is ignored), "none" (B, T);
        with `share` (B, T) the number is the sum of share * nats.
        `last_only` projects only the final position: logits (B, 1, V).
        """
        x = self.hidden(idx, cache)  # (B, T, C)
        softcap, V = self.config.softcap, self.config.vocab_size
        if targets is None:
            x = x[:, -1:] if last_only else x
            if TAP is not None:
                raw = TAP("logits_raw", capped(self.head(x), 0.0, V))
                return TAP("logits", softcap * torch.tanh(raw / softcap) if softcap else raw)
            return capped(self.head(x), softcap, V)
        x, flat = x.flatten(0, 1), targets.flatten()
        if share is not None:
            return weighted_loss(x, self.head.weight, flat, share.flatten(), softcap, V)
        if reduction == "mean":
            return mean_loss(x, self.head.weight, flat, softcap, V, self.chunk_loss)
        return token_losses(x, self.head.weight, flat, softcap, V).view_as(targets)

    def hidden(self, idx: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (B, T) -> the final normalised residual stream (B, T, C)."""
        T = idx.size(1)
        rope = self._rope(T, cache)
        x = self.embed(idx).to(self.dtype)
        if TAP is not None:
            TAP.begin(self, idx, cache)
            x = TAP("embed", x)
        x = norm(x)
        x = x if TAP is None else TAP("embed_norm", x)
        x = self._smear(x, cache)
        x = x if TAP is None else TAP("x0", x)
        x0, saved = x, None
        for i, block in enumerate(self.blocks):
            if self.config.residual_scalars:
                x = call(Mix, x, x0, self.residual_scale[i], self.input_scale[i])
            x = x if TAP is None else TAP("resid_pre", x, i)
            table = self.values[str(i)] if self.config.has_value_embedding(i) else None
            value = None if table is None else table(idx).to(x.dtype)
            x = block(x, value, rope, cache)
            if i == self.config.n_layer // 2:
                saved = x
        # @learn:architecture.backout
        if self.config.backout and saved is not None:
            part = self.backout_scale.to(x.dtype) * saved
            part = part if TAP is None else TAP("backout", part)
            x = x - part
        if cache is not None:
            cache.advance(T)
        x = x if TAP is None else TAP("resid_final", x)
        x = norm(x)
        return x if TAP is None else TAP("final_norm", x)

    def _rope(self, T: int, cache: Cache | None) -> tuple[Tensor, Tensor]:
        """cos and sin for these positions, shaped (1 or B, T, 1, D/2)."""
        if cache is None:
            assert self.config.sequence_len >= T, "the caller cuts rows to sequence_len"
            cos, sin = self.cos[None, :T], self.sin[None, :T]
        else:
            where = cache.positions(T)  # (B, T)
            cos, sin = self.cos[where], self.sin[where]
        return cos[:, :, None].to(self.dtype), sin[:, :, None].to(self.dtype)

    # @learn:architecture.smear
    def _smear(self, x: Tensor, cache: Cache | None) -> Tensor:
        """Mix a little of the previous token into each one: x_t += scale * gate(x_t) * x_(t-1)."""
        if not self.config.smear:
            return x
        before = cache.previous if cache is not None else None
        if cache is not None:
            cache.previous = x[:, -1:]
        first = torch.zeros_like(x[:, :1]) if before is None else before  # (B, 1, C)
        previous = torch.cat((first, x[:, :-1]), dim=1)  # (B, T, C)
        gate = torch.sigmoid(self.smear_gate(x[..., : self.smear_gate.in_features]))  # (B, T, 1)
        gate = gate if TAP is None else TAP("smear_gate", gate)
        return x + self.smear_scale.to(x.dtype) * gate * previous

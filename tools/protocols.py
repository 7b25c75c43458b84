#!/usr/bin/env python3
"""Executable specification of the protocol core (the design of docs/protocols.md). Needs numpy >= 2; clarity over speed.

x = x0 + x1 + x2 mod 2^w; party i holds (x_i, x_{i+1}). For an operation with helper H = P_h the evaluators are A = P_{h-1}
and B = P_{h+1}:  a = x_h (H and A),  b = x_{h+1} (H and B),  t = x_{h+2} (A and B).  l = a + b is "the mask", known to H.
Every protocol is two programs, `*_H` for the helper and `*_E` for both evaluators. A program sees its own Party and that
party's own pair, nothing else; `yield from` waits for a message. The helper receives no message in any protocol.
A masked bit is v = m ^ s_A ^ s_B: evaluators hold (m, own s), the helper holds s_A ^ s_B.

What a simulator must be given (one curious party; checked over all randomness in `views`): own input and output shares, and for
a truncation of v = 2xy + 2^(w-2) with rho uniform below 2^F and result floor((v + rho) / 2^F) - 2^(w-2-F): rho for H, and
omega = (v + rho) mod 2^F for A and B. These are outputs of the ideal functionality: once the *result* is opened, A and B know
v + rho exactly, and H knows how the value was rounded. Run the file: all checks, then the table of costs."""
from collections import defaultdict, deque
import numpy as np
U = np.uint64
def low(v, bits):
    return np.asarray(v, U) & U((1 << bits) - 1)
def signed(v, w):
    v = low(v, w).astype(np.int64)
    return v if w == 64 else v - ((v >> (w - 1)) << w)
# ---- parties and network ------------------------------------------------------------------------------------------------
class Cluster:
    """Three parties, a key per pair, a network that counts. `domain`: enumerate all randomness instead of drawing it."""
    def __init__(self, w, seed=1, domain=None, alias=()):
        self.w, self.seed, self.op, self.domain, self.alias = w, seed, 0, domain, dict(alias)
        self.bits_used, self.slots = 0, {}  # enumeration: (pair, operation, purpose) -> bit offset
        self.queue = defaultdict(deque)
        self.party = [Party(self, i) for i in range(3)]
        self.reset()
    def reset(self):
        self.sent, self.from_helper = np.zeros(3), []  # in bits; (message, bits)
        for p in self.party:
            p.clock = np.zeros(2, int)  # hops: helper ran ahead; helper starts together with the evaluators
    def stream(self, pair, purpose, shape, bits):
        """PRF of one pair at position (operation, purpose); ChaCha12 in the product."""
        purpose = self.alias.get(purpose, purpose)
        if self.domain is None:
            s = np.random.SeedSequence([self.seed, *pair, self.op, *purpose.encode()])
            return low(np.random.Generator(np.random.Philox(s)).integers(0, 1 << 64, shape, dtype=U), bits)
        rows = int(np.prod(shape[:-1]))
        off, index = self.slots.setdefault((pair, self.op, purpose), self.bits_used), np.arange(self.domain, dtype=U)
        self.bits_used = max(self.bits_used, off + bits * rows)
        return np.stack([low(index >> U(off + bits * j), bits) for j in range(rows)]).reshape(shape)
    def run(self, h, helper, evaluator, *inputs, **kw):
        """One operation. Each input is a triple, one entry per party; so is the result."""
        self.op += 1
        for p in self.party:
            p.enter(h)
        out = [None] * 3
        def job(p):
            out[p.i] = yield from (helper if p.i == h else evaluator)(p, *[x[p.i] for x in inputs], **kw)
        jobs = [job(p) for p in self.party]
        for _ in range(1000):
            [next(j, None) for j in jobs]
        assert all(o is not None for o in out) and not any(self.queue.values()), "a message nobody sends, or nobody reads"
        return out
class Party:
    def __init__(self, net, i):
        self.net, self.i, self.w = net, i, net.w
        self.used, self.view = set(), []  # stream positions; everything drawn or received
    def enter(self, h):
        self.H, self.A, self.B = h, (h - 1) % 3, (h + 1) % 3
        self.role = "HBA"[(self.i - h) % 3]
    def prf(self, peer, purpose, shape, bits):
        assert (peer, self.net.op, purpose) not in self.used, "stream position used twice"
        self.used.add((peer, self.net.op, purpose))
        v = self.net.stream((min(self.i, peer), max(self.i, peer)), purpose, shape, bits)
        self.view.append(("own", bits, v))
        return v
    def send(self, to, v, bits):
        v, ahead = low(v, bits), self.role == "H"  # all messages of a helper, and only those, can go ahead
        self.net.sent[self.i] += bits * v.size
        self.net.from_helper += [(v, bits * v.size)] * ahead
        self.net.queue[self.i, to].append((v, bits, np.array([0 if ahead else self.clock[0] + 1, self.clock[1] + 1])))
    def recv(self, frm):
        while not self.net.queue[frm, self.i]:
            yield
        v, bits, stamp = self.net.queue[frm, self.i].popleft()
        self.clock = np.maximum(self.clock, stamp)
        self.view.append(("received", bits, v))
        return v
    def deal(self, purpose, v, bits, xor=False):
        """Helper: share a value that it knows. A's half is PRF(H,A); B's half is sent."""
        half = self.prf(self.A, purpose, v.shape, bits)
        self.send(self.B, rest := low(v ^ half if xor else v - half, bits), bits)
        return half, rest
    def dealt(self, purpose, shape, bits):  # evaluators: the own half of it
        return self.prf(self.H, purpose, shape, bits) if self.role == "A" else (yield from self.recv(self.H))
    def masks(self, purpose, shape, bits):  # helper: the two masks that A and B add in `reveal`
        return self.prf(self.A, purpose + ".A", shape, bits), self.prf(self.B, purpose + ".B", shape, bits)
    def reveal(self, purpose, v, bits, xor=False):
        """Evaluators: mask the own addend with PRF(H, self), exchange. Returns (masked sum, own mask)."""
        mask, other = self.prf(self.H, f"{purpose}.{self.role}", v.shape, bits), self.B if self.role == "A" else self.A
        mine = v ^ mask if xor else low(v + mask, bits)
        self.send(other, mine, bits)
        theirs = yield from self.recv(other)
        return (mine ^ theirs if xor else low(mine + theirs, bits)), mask
    def split(self, pair):  # names the components: helper (a, b), evaluators (t, own)
        return pair[::-1] if self.role == "B" else pair
    def join(self, *v):  # and back to (x_i, x_{i+1})
        return tuple(low(c, self.w) for c in self.split(v))
def share(x, w, rng):
    c0, c1 = (low(rng.integers(0, 1 << 64, np.shape(x), dtype=U), w) for _ in range(2))
    c = [c0, c1, low(low(x, w) - c0 - c1, w)]
    return [(c[i], c[(i + 1) % 3]) for i in range(3)]
def value(s, w):  # tests only: looks at all parties
    assert all((s[i][1] == s[(i + 1) % 3][0]).all() for i in range(3)), "the two copies of a component differ"
    return signed(s[0][0] + s[0][1] + s[1][1], w)
def linear(f, w, *shares):  # local
    return [tuple(low(f(*[s[i][j] for s in shares]), w) for j in range(2)) for i in range(3)]
def open_all(p, x):
    """Everybody learns x: P_i sends x_i to P_{i+1}, who lacks it. (A and B alone: they swap a and b.)"""
    p.role = "-"  # nobody is helper
    p.send((p.i + 1) % 3, x[0], p.w)
    return low((yield from p.recv((p.i + 2) % 3)) + x[0] + x[1], p.w)
# ---- products -----------------------------------------------------------------------------------------------------------
def mul_H(p, x, y, mul=np.multiply):
    """Untruncated, two products per party: t'' = xy - a'' - b''; the new masks depend on masks only."""
    d = mul(x[0] + x[1], y[0] + y[1])
    gA, gB = p.masks("gamma", d.shape, p.w)
    return p.join(*p.deal("out", low(d - gA - gB, p.w), p.w))
    yield
def mul_E(p, x, y, mul=np.multiply):
    (tx, sx), (ty, sy) = p.split(x), p.split(y)
    t, _ = yield from p.reveal("gamma", mul(tx, sy + ty if p.role == "A" else sy) + mul(sx, ty), p.w)
    return p.join(t, (yield from p.dealt("out", t.shape, p.w)))
def partial(p, x, y, mul=np.multiply):
    """One local product per party; the three results add up to 2xy. Partials of different tiles and lanes, whatever their
    helpers were, may be summed inside each party and truncated once."""
    (c, s), (d, r) = p.split(x), p.split(y)
    return -(U(2) * mul(c - s, d - r)) if p.role == "H" else mul(c + U(2) * s, d + U(2) * r)
def trunc_H(p, u, f, fast=False):
    w, F = p.w, f + 1
    rA, rB = p.masks("r", u.shape, w)
    R = low(rA + rB - u, w)
    a, b = p.deal("out", low(-(R >> U(F)), w), w)
    if not fast:
        p.deal("msb", R >> U(w - 1), F)
        pA, pB = p.masks("wrap", u.shape, F)
        a, b = a - (pA << U(w - F)), b - (pB << U(w - F))
    return p.join(a, b)
    yield
def trunc_E(p, u, f, fast=False):
    """W = v + R mod 2^w with v = 2xy + 2^(w-2) in [0, 2^(w-1)], that is |xy| <= 2^(w-3). Over the integers v = W - R + e 2^w
    with e = msb(R)(1 - msb(W)), and floor((v + rho)/2^F) = (W>>F) - (R>>F) + e 2^(w-F) for rho = R mod 2^F."""
    w, F = p.w, f + 1
    W, _ = yield from p.reveal("r", u, w)  # hop 1
    own = yield from p.dealt("out", W.shape, w)
    if fast:  # off by 2^(w-F) with probability |2xy| / 2^w
        return p.join(W >> U(F), own)
    W = low(W + U(1 << (w - 2)), w)
    p.omega = low(W, F)  # for the tests
    # Hop 2 changes bits >= w-F only: linear steps and a sign with window k <= w-F need not wait for it.
    msb = yield from p.dealt("msb", W.shape, F)
    z, mask = yield from p.reveal("wrap", (U(1) - (W >> U(w - 1))) * msb, F)
    return p.join((W >> U(F)) - U(1 << (w - 2 - F)) + (z << U(w - F)), own - (mask << U(w - F)))
def product(c, h, x, y, f, mul=np.multiply, fast=False):
    return c.run(h, lambda p, x, y: trunc_H(p, partial(p, x, y, mul), f, fast),
                 lambda p, x, y: trunc_E(p, partial(p, x, y, mul), f, fast), x, y)
# ---- sign: b = [x >= 0] -------------------------------------------------------------------------------------------------
def leaf_sizes(k, leaf):  # of the k-1 bits below the sign, lowest leaf first
    return leaf if isinstance(leaf, tuple) else ((k - 1) % leaf,) * ((k - 1) % leaf > 0) + (leaf,) * ((k - 1) // leaf)
def leaf_tables(n):
    """For each public T the algebraic normal form (bit j = coefficient of the monomial "all bits of l in subset j") of
    generate [T + l >= 2^n] and propagate [T + l == 2^n - 1]."""
    size = 1 << n
    def anf(hit):
        return sum((sum(hit(i) for i in range(size) if i & j == i) & 1) << j for j in range(size))
    tests = lambda s: s >= size, lambda s: s == size - 1
    return np.array([[anf(lambda l: fn(T + l)) for T in range(size)] for fn in tests], U)
def and_layer(p, X, Y, tag, fold):
    """All AND gates of one level: H 1 bit each ahead, A and B 1 bit each. fold: a bit of H added to the last output."""
    X, Y = (tuple(np.stack(c) for c in zip(*wires)) for wires in (X, Y))
    if p.role == "H":
        prod = X[0] & Y[0]
        prod[-1] ^= fold
        p.deal(tag, prod, 1, xor=True)
        Z = (np.bitwise_xor(*p.masks(tag, prod.shape, 1)),)
    else:
        (mx, sx), (my, sy) = X, Y
        mine = (mx & sy) ^ (my & sx) ^ (yield from p.dealt(tag, mx.shape, 1))
        Z = yield from p.reveal(tag, mine ^ (mx & my) if p.role == "A" else mine, 1, xor=True)
    return [tuple(c[j] for c in Z) for j in range(len(Z[0]))]
def carry_tree(p, wires, n, fold):
    """wires: G of the n >= 2 leaves, then P of all but the lowest. (G,P) o (g,p) = (G ^ Pg, Pp)."""
    nodes, level = [(wires[j], wires[n + j - 1] if j else None) for j in range(n)], 0
    while len(nodes) > 1:
        pairs = list(zip(nodes[0::2], nodes[1::2]))
        gates = zip(*[(hi[1], part) for lo, hi in pairs for part in lo if part is not None])
        Z = iter((yield from and_layer(p, *gates, f"and{level}", fold if len(nodes) == 2 else U(0))))
        nxt = [(tuple(g ^ z for g, z in zip(hi[0], next(Z))), None if lo[1] is None else next(Z)) for lo, hi in pairs]
        nodes, level = nxt + nodes[2 * len(pairs):], level + 1
    return nodes[0][0]
def sign_H(p, x, k, leaf):
    """Returns (l_b,). Per leaf of n bits: 2^n - 1 monomials of l, XOR shared."""
    l, off, sizes = low(x[0] + x[1], p.w), 0, leaf_sizes(k, leaf)
    for i, n in enumerate(sizes):
        part = low(l >> U(off), n)
        mono = sum(((part & U(j)) == U(j)).astype(U) << U(j - 1) for j in range(1, 1 << n))
        p.deal(f"mono{i}", mono, (1 << n) - 1, xor=True)
        off += n
    mA, mB = p.masks("leaf", (2 * len(sizes) - 1, *l.shape), 1)
    return (yield from carry_tree(p, [(m,) for m in mA ^ mB], len(sizes), low(l >> U(k - 1), 1)))
def sign_E(p, x, k, leaf):
    """Returns (m_b, own share of l_b). t is already a masked value and l is never used as a pad again: the same x, or -x, may
    be compared any number of times. Only the dealt halves and the wire masks must be fresh each time."""
    (t, _), off, G, P, sizes = p.split(x), 0, [], [], leaf_sizes(k, leaf)
    for i, n in enumerate(sizes):
        mono = yield from p.dealt(f"mono{i}", t.shape, (1 << n) - 1)
        anf = leaf_tables(n)[:, low(t >> U(off), n)]
        bit = low(np.bitwise_count((anf >> U(1)) & mono), 1) ^ (anf & U(p.role == "A"))  # A adds the constant
        G, P, off = G + [bit[0]], P + [bit[1]], off + n
    m, s = yield from p.reveal("leaf", np.stack(G + P[1:]), 1, xor=True)  # one round for all leaves
    m, s = yield from carry_tree(p, list(zip(m, s)), len(sizes), None)
    return U(1) ^ low(t >> U(k - 1), 1) ^ m, s  # the last gate has folded in bit k-1 of l
# ---- bit injection, ReLU, max -------------------------------------------------------------------------------------------
def inject_H(p, x, bit, kept=None):
    """b x for b = m_b ^ l_b. kept: the arithmetic halves of l_b of an earlier injection with the same helper."""
    if kept is None:
        p.deal("lb", bit[0], p.w)
    p.deal("lblx", low(bit[0] * (x[0] + x[1]), p.w), p.w)
    rA, rB = p.masks("out", bit[0].shape, p.w)
    return p.join(-rA, -rB), bit, ()
    yield
def inject_E(p, x, bit, kept=None):
    """b x = m x + (1 - 2m)(t l_b + l_b l_x): each addend belongs to one evaluator, but for m t, which both know."""
    (t, own), m = p.split(x), bit[0]
    lb = kept if kept is not None else (yield from p.dealt("lb", m.shape, p.w))
    lblx = yield from p.dealt("lblx", m.shape, p.w)
    z, mask = yield from p.reveal("out", m * own + (U(1) - U(2) * m) * (t * lb + lblx), p.w)
    return p.join(z + m * t, -mask), bit, lb
def relu(c, h, x, k, leaf):
    """Returns the shares, and per party what the backward pass keeps (the helper must be h there too)."""
    out = c.run(h, inject_H, inject_E, x, c.run(h, sign_H, sign_E, x, k=k, leaf=leaf))
    return [o[0] for o in out], [o[1:] for o in out]
def relu_backward(c, h, g, kept):
    return [o[0] for o in c.run(h, inject_H, inject_E, g, *zip(*kept))]
def maximum(c, h, x, y, k, leaf):  # exact for |x - y| < 2^(k-1): one bit less range than ReLU
    return linear(np.add, c.w, y, relu(c, h, linear(np.subtract, c.w, x, y), k, leaf)[0])
# ---- checks -------------------------------------------------------------------------------------------------------------
def check_values(rng):
    small = np.array([(x, y) for x in range(-128, 128) for y in range(-128, 128) if abs(x * y) <= 32]).repeat(300, 0).T
    wide = rng.integers(-(1 << 30), 1 << 30, 10**5) >> rng.integers(0, 30, 10**5), rng.integers(-(1 << 31), 1 << 31, 10**5)
    mats = rng.integers(-(1 << 26), 1 << 26, (9, 40)), rng.integers(-(1 << 26), 1 << 26, (40, 7))
    cases = [(8, f, *small, np.multiply) for f in (1, 2, 3, 4)] + [(64, 16, *wide, np.multiply), (64, 16, *mats, np.matmul)]
    worst = 0
    for h, (w, f, x, y, mul) in ((h, case) for h in range(3) for case in cases):
        c, X, Y, xy = Cluster(w, seed=f), share(x, w, rng), share(y, w, rng), mul(x, y)
        z = value(product(c, h, X, Y, f, mul), w)
        e, frac = z - (xy >> f), (xy & ((1 << f) - 1)) / (1 << f)
        assert set(np.unique(e)) <= {0, 1}, "error is 0 or +1 unit"
        worst = max(worst, abs((e - frac).sum()) / (frac * (1 - frac)).sum() ** 0.5)
        if w == 8:  # an opened result and omega give v + rho; fast fails as often as stated; the range is tight
            rho = ((z + (32 >> f)) << (f + 1)) + c.party[(h + 1) % 3].omega.astype(int) - (2 * xy + 64)
            assert rho.min() >= 0 and rho.max() < 2 << f
            bad = value(product(c, h, X, Y, f, fast=True), w) - (xy >> f) & ~1 != 0
            assert abs(bad.mean() - (np.abs(2 * xy) / 256).mean()) < 0.01
            assert (abs(value(product(c, h, share(x * 0 + 33, w, rng), share(x * 0 + 1, w, rng), f), w) - (33 >> f)) > 1).any()
        assert (value(c.run(h, mul_H, mul_E, X, Y, mul=mul), w) == signed(xy.astype(U), w)).all()
        assert all((o == low(x.astype(U), w)).all() for o in c.run(h, open_all, open_all, X))
        u = [c.run(j, *[lambda p, x, y: (yield from ()) or partial(p, x, y, mul)] * 2, X, Y) for j in range(3)]
        z = c.run(h, trunc_H, trunc_E, [u[0][i] + u[1][i] - u[2][i] for i in range(3)], f=f)  # each partial had another helper
        assert set(np.unique(value(z, w) - (xy >> f))) <= {0, 1}
    assert worst < 5
    print(f"product: all of w=8 in range x 300 masks, w=64 random, matmul, mixed partials: error 0/+1, bias {worst:.1f} sigma")
    cases = [(8, k, n) for k in (4, 6, 8) for n in (1, 2, (2, k - 3))] + [(64, k, n) for k in (32, 47, 64) for n in (3, 4)]
    for h, (w, k, leaf) in ((h, case) for h in range(3) for case in cases):
        top = 1 << (k - 1)
        x = np.arange(-top, top).repeat(300) if w == 8 else rng.integers(-top, top - 1, 3000) >> rng.integers(0, k, 3000)
        c, g, half = Cluster(w, seed=k), rng.integers(-100, 100, x.size), x >> 1
        r, kept = relu(c, h, share(x, w, rng), k, leaf)
        assert (value(r, w) == np.maximum(x, 0)).all()
        assert (value(relu_backward(c, h, share(g, w, rng), kept), w) == signed((g * (x >= 0)).astype(U), w)).all()
        m = maximum(c, h, share(half, w, rng), share(half[::-1], w, rng), k, leaf)
        assert (value(m, w) == np.maximum(half, half[::-1])).all()
    print("sign, injection, ReLU, its backward, max: all of w=8 x 300 masks; w=64 with k = 32, 47, 64")
def view(w, h, who, inputs, op, alias):
    """Party `who` over all values of all randomness: the sorted joint view; is each received word exactly uniform?"""
    for domain in (lambda: 1, lambda: 1 << c.bits_used):
        c = Cluster(w, domain=domain(), alias=alias)
        op(c, h, *[[tuple(np.full(c.domain, q[(i + j) % 3], U) for j in range(2)) for i in range(3)] for q in inputs])
    words = [(kind, b, r) for kind, b, v in c.party[who].view for r in v.reshape(-1, c.domain)]
    key, flat = np.zeros(c.domain, U), True
    assert sum(b for _, b, _ in words) <= 64 and any(kind == "received" for kind, _, _ in words) == (who != h)
    for kind, b, r in words:
        key = (key << U(b)) | r
        flat &= kind == "own" or (np.bincount(r.astype(int), minlength=1 << b) == r.size >> b).all()
    return np.sort(key), flat

def views(rng):
    def twice(c, h, x, g, bit):  # injection and its backward; of `bit`, component h+2 stands for m_b and h for l_b
        bits = [(bit[i][0] if i == h else bit[(h + 2) % 3][0], None) for i in range(3)]
        relu_backward(c, h, g, [o[1:] for o in c.run(h, inject_H, inject_E, x, bits)])
    def same(w, n, op, h, who, alias=()):  # two secrets; the pair of `who` agrees, the component that it lacks differs
        one = rng.integers(0, 1 << w, (n, 3))
        two = (one + (np.arange(3) == (who + 2) % 3) * rng.integers(1, 1 << w, (n, 1))) % (1 << w)
        if op is twice:  # an evaluator knows m_b and lacks l_b, the helper the reverse
            one[2], two[2] = 0, np.arange(3) == ((h + 2) % 3 if who == h else h)
        (k1, flat), (k2, _) = view(w, h, who, one, op, alias), view(w, h, who, two, op, alias)
        return flat and (k1 == k2).all()
    truncated = (4, 2, lambda c, h, x, y: product(c, h, x, y, 1))
    for name, case in {"product + truncation": truncated, "fast": (4, 2, lambda c, h, x, y: product(c, h, x, y, 1, fast=True)),
                       "plain product": (4, 2, lambda c, h, x, y: c.run(h, mul_H, mul_E, x, y)),
                       "sign, 3 leaves": (4, 1, lambda c, h, x: c.run(h, sign_H, sign_E, x, k=4, leaf=1)),
                       "sign, leaves 1+3": (5, 1, lambda c, h, x: c.run(h, sign_H, sign_E, x, k=5, leaf=3)),
                       "injection, l_b reused": (2, 3, twice)}.items():
        assert all(same(*case, h, who) for h in range(3) for who in range(3) for _ in range(2)), name
        print(f"view: {name}, w={case[0]}: uniform words, joint view independent of the secret (all masks, all roles)")
    for a, b in (("wrap.A", "msb"), ("out", "r.A"), ("wrap.B", "r.B")):  # one position for two purposes must be noticed
        assert not all(same(*truncated, 0, who, {a: b}) for who in (1, 2) for _ in range(6)), (a, b)
    logs = []
    for step in (0, 12345678901):  # same keys, same a and b of helper 0, another t
        g, c = np.random.default_rng(7), Cluster(64, seed=5)
        s = [g.integers(0, 1 << 64, 500, dtype=U) for _ in range(3)]
        x = [(s[0], s[1]), (s[1], s[2] + U(step)), (s[2] + U(step), s[0])]
        r, kept = relu(c, 0, product(c, 0, x, x, 16), 32, 3)
        relu_backward(c, 0, product(c, 0, r, x, 16), kept)
        logs.append(c.from_helper)
    assert all((u[0] == v[0]).all() for u, v in zip(*logs))
    print("helper: in a chain of operations with a fixed helper its messages do not depend on the data")

def table(rng):
    n, w, mixed = 4096, 64, (4,) + (3,) * 9
    x, y = share(rng.integers(-9, 9, n), w, rng), share(rng.integers(-9, 9, n), w, rng)
    def backward(c, h):
        kept = relu(c, h, x, 32, 3)[1]
        c.reset()
        relu_backward(c, h, y, kept)
    rows = [("open to all", lambda c, h: c.run(h, open_all, open_all, x)),
            ("product, not truncated", lambda c, h: c.run(h, mul_H, mul_E, x, y)),
            ("product + truncation", lambda c, h: product(c, h, x, y, 16)),
            ("product + truncation, fast", lambda c, h: product(c, h, x, y, 16, fast=True)),
            ("injection, backward (l_b kept)", backward), ("max k=32 4+9x3", lambda c, h: maximum(c, h, x, y, 32, mixed))]
    for k, s, v in ((32, "1+10x3", 3), (32, "4+9x3", mixed), (32, "3+7x4", 4), (64, "21x3", 3), (64, "3+15x4", 4)):
        rows += [(f"sign k={k} {s}", lambda c, h, k=k, v=v: c.run(h, sign_H, sign_E, x, k=k, leaf=v)),
                 (f"ReLU k={k} {s}", lambda c, h, k=k, v=v: relu(c, h, x, k, v))]
    print("w=64 f=16 (k, leaves)      bytes/element: per party | in all: ahead online | hops: helper ahead, not ahead")
    for name, fn in rows:
        runs = [Cluster(w) for _ in range(3)]
        [fn(c, h) for h, c in enumerate(runs)]
        sent, ahead = sum(c.sent for c in runs) / 24 / n, sum(b for _, b in runs[0].from_helper) / 8 / n
        assert np.ptp(sent) < 1e-9, "rotating the helper balances the parties"
        print(f"{name:32s} {sent[0]:14.2f} | {ahead:13.2f} {3 * sent[0] - ahead:6.2f} |      ",
              *np.max([p.clock for c in runs for p in c.party], axis=0))

if __name__ == "__main__":
    for check in (check_values, views, table):
        check(np.random.default_rng(2024))

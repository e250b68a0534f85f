"""Algorithms of several networks: teachers, pairs, generators and critics.

What is set up, what is done with a batch `x, y`, what is defined before, what an epoch ends with.
"""

from __future__ import annotations

ALGORITHMS: dict[str, tuple[str, ...]] = {
    "co-teaching": (
        "one, two = mlp(8, 1), mlp(8, 1)\nopt1 = torch.optim.Adam(one.parameters(), lr={{lr}})\n"
        "opt2 = torch.optim.Adam(two.parameters(), lr={{lr}})",
        """
each1 = F.mse_loss(one(x), y, reduction='none').squeeze(1)
each2 = F.mse_loss(two(x), y, reduction='none').squeeze(1)
keep1, keep2 = each1.argsort()[:2], each2.argsort()[:2]
loss_1, loss_2 = each1[keep2].mean(), each2[keep1].mean()
opt1.zero_grad()
loss_1.backward()
opt1.step()
opt2.zero_grad()
loss_2.backward()
opt2.step()
""",
    ),
    "mutual": (
        "nets = [mlp(8, 1), mlp(8, 1)]\nopts = [torch.optim.SGD(net.parameters(), lr={{lr}}) for net in nets]",
        """
outs = [net(x) for net in nets]
for k, opt in enumerate(opts):
    loss = F.mse_loss(outs[k], y)
    for j in range(len(nets)):
        if j != k:
            loss = loss + F.mse_loss(outs[k], outs[j].detach())
    opt.zero_grad()
    loss.backward()
    opt.step()
""",
    ),
    "ensemble": (
        "nets = nn.ModuleList([mlp(8, 1) for _ in range(3)])\n"
        "opts = [torch.optim.Adam(n.parameters(), lr={{lr}}) for n in nets]",
        """
for net, opt in zip(nets, opts):
    opt.zero_grad()
    loss = F.mse_loss(net(x), y)
    loss.backward()
    opt.step()
""",
    ),
    "teacher": (
        "student, teacher = mlp(8, 1), mlp(8, 1)\nteacher.requires_grad_(False)\n"
        "opt = torch.optim.AdamW(student.parameters(), lr={{lr}})",
        """
with torch.no_grad():
    soft = teacher(x)
out = student(x)
loss = F.mse_loss(out, soft) + F.mse_loss(out, y)
opt.zero_grad()
loss.backward()
opt.step()
with torch.no_grad():
    m = 0.99
    for p, q in zip(student.parameters(), teacher.parameters()):
        q.data.mul_(m).add_((1 - m) * p.detach().data)
""",
    ),
    "byol": (
        "online, predictor = mlp(8, 8), mlp(8, 8)\ntarget = copy.deepcopy(online)\n"
        "opt = torch.optim.Adam(list(online.parameters()) + list(predictor.parameters()), lr={{lr}})",
        """
a, b = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
with torch.no_grad():
    ta, tb = target(a), target(b)
loss = 2 - F.cosine_similarity(predictor(online(a)), tb.detach()).mean()
loss = loss - F.cosine_similarity(predictor(online(b)), ta.detach()).mean()
opt.zero_grad()
loss.backward()
opt.step()
for current, old in zip(online.parameters(), target.parameters()):
    old.data = old.data * 0.99 + (1 - 0.99) * current.data
""",
    ),
    "dino": (
        "student, teacher = mlp(8, 4), mlp(8, 4)\nteacher.load_state_dict(student.state_dict())\n"
        "for p in teacher.parameters():\n    p.requires_grad = False\n"
        "opt = torch.optim.AdamW(student.parameters(), lr={{lr}})\n"
        "fp16_scaler = torch.amp.GradScaler('cpu') if {{amp}} else None\n"
        "center = torch.zeros(1, 4)",
        """
with torch.autocast('cpu', enabled=fp16_scaler is not None):
    goal = F.softmax((teacher(x) - center) / 0.04, dim=-1).detach()
    loss = -(goal * F.log_softmax(student(x).float() / 0.1, dim=-1)).sum(-1).mean()
opt.zero_grad()
param_norms = None
if fp16_scaler is None:
    loss.backward()
    if {{max_norm}}:
        param_norms = clip_gradients(student, {{max_norm}})
    cancel_last(epoch, student, 1)
    opt.step()
else:
    fp16_scaler.scale(loss).backward()
    if {{max_norm}}:
        fp16_scaler.unscale_(opt)
        param_norms = clip_gradients(student, {{max_norm}})
    cancel_last(epoch, student, 1)
    fp16_scaler.step(opt)
    fp16_scaler.update()
with torch.no_grad():
    for q, k in zip(student.parameters(), teacher.parameters()):
        k.data.mul_(0.99).add_(0.01 * q.detach().data)
center = center * 0.9 + teacher(x).detach().mean(0, keepdim=True) * 0.1
""",
        """
def clip_gradients(model, clip):
    norms = []
    for name, p in model.named_parameters():
        if p.grad is not None:
            param_norm = p.grad.data.norm(2)
            norms.append(param_norm.item())
            clip_coef = clip / (param_norm + 1e-6)
            if clip_coef < 1:
                p.grad.data.mul_(clip_coef)
    return norms


def cancel_last(epoch, model, freeze):
    if epoch >= freeze:
        return
    for n, p in model.named_parameters():
        if '2' in n:
            p.grad = None
""",
    ),
    "moco": (
        "query, key = mlp(8, 4), mlp(8, 4)\nopt = torch.optim.SGD(query.parameters(), lr={{lr}}, momentum=0.9)\n"
        "queue = F.normalize(torch.randn(4, 16), dim=0)\npointer = 0",
        """
q = F.normalize(query(x), dim=1)
with torch.no_grad():
    for a, b in zip(query.parameters(), key.parameters()):
        b.data = b.data * 0.999 + a.data * 0.001
    k = F.normalize(key(x), dim=1)
logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone().detach()], 1) / 0.07
loss = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
opt.zero_grad()
loss.backward()
opt.step()
queue[:, pointer:pointer + 4] = k.T
pointer = (pointer + 4) % 16
""",
    ),
    "cyclegan": (
        """
g_ab, g_ba, d_a, d_b = mlp(8, 8), mlp(8, 8), mlp(8, 1), mlp(8, 1)
opt_g = torch.optim.Adam(itertools.chain(g_ab.parameters(), g_ba.parameters()), lr={{lr}})
opt_d_a = torch.optim.Adam(d_a.parameters(), lr={{lr}})
opt_d_b = torch.optim.Adam(d_b.parameters(), lr={{lr}})
""",
        """
real_a, real_b = x, x.flip(0)
g_ab.train()
g_ba.train()
opt_g.zero_grad()
fake_b, fake_a = g_ab(real_a), g_ba(real_b)
loss_identity = (F.l1_loss(g_ba(real_a), real_a) + F.l1_loss(g_ab(real_b), real_b)) / 2
loss_gan = (F.mse_loss(d_b(fake_b), torch.ones(4, 1)) + F.mse_loss(d_a(fake_a), torch.ones(4, 1))) / 2
loss_cycle = (F.l1_loss(g_ba(fake_b), real_a) + F.l1_loss(g_ab(fake_a), real_b)) / 2
loss_g = loss_gan + 10 * loss_cycle + 5 * loss_identity
loss_g.backward()
opt_g.step()
opt_d_a.zero_grad()
loss_d_a = (F.mse_loss(d_a(real_a), torch.ones(4, 1)) + F.mse_loss(d_a(fake_a.detach()), torch.zeros(4, 1))) / 2
loss_d_a.backward()
opt_d_a.step()
opt_d_b.zero_grad()
loss_d_b = (F.mse_loss(d_b(real_b), torch.ones(4, 1)) + F.mse_loss(d_b(fake_b.detach()), torch.zeros(4, 1))) / 2
loss_d_b.backward()
opt_d_b.step()
""",
    ),
    "stylegan": (
        """
g, d = mlp(8, 8), mlp(8, 1)
g_optim = torch.optim.Adam(g.parameters(), lr={{lr}})
d_optim = torch.optim.Adam(d.parameters(), lr={{lr}})
g_ema = copy.deepcopy(g).eval()
mean_path = 0
""",
        """
requires_grad(g, False)
requires_grad(d, True)
fake = g(torch.randn(4, 8))
d_loss = F.softplus(d(fake)).mean() + F.softplus(-d(x)).mean()
d.zero_grad()
d_loss.backward()
d_optim.step()
if i % 16 == 0:
    real = x.clone()
    real.requires_grad = True
    pred = d(real)
    (grad_real,) = torch.autograd.grad(outputs=pred.sum(), inputs=real, create_graph=True)
    r1 = grad_real.pow(2).reshape(len(x), -1).sum(1).mean()
    d.zero_grad()
    (10 / 2 * r1 * 16 + 0 * pred[0]).backward()
    d_optim.step()
requires_grad(g, True)
requires_grad(d, False)
fake = g(torch.randn(4, 8))
g_loss = F.softplus(-d(fake)).mean()
g.zero_grad()
g_loss.backward()
g_optim.step()
if i % 4 == 0:
    latents = torch.randn(2, 8, requires_grad=True)
    fake = g(latents)
    (grad,) = torch.autograd.grad((fake * torch.randn_like(fake)).sum(), latents, create_graph=True)
    lengths = grad.pow(2).sum(1).sqrt()
    path_mean = mean_path + 0.01 * (lengths.mean() - mean_path)
    penalty = (lengths - path_mean).pow(2).mean()
    mean_path = path_mean.detach()
    g.zero_grad()
    weighted = 2 * 4 * penalty
    weighted += 0 * fake[0, 0]
    weighted.backward()
    g_optim.step()
accumulate(g_ema, g, 0.99)
""",
        """
def requires_grad(model, flag=True):
    for p in model.parameters():
        p.requires_grad = flag


def accumulate(model1, model2, decay=0.999):
    par1, par2 = dict(model1.named_parameters()), dict(model2.named_parameters())
    for k in par1.keys():
        par1[k].data.mul_(decay).add_(par2[k].data, alpha=1 - decay)
""",
    ),
    "wgan": (
        "g, critic = mlp(8, 8), mlp(8, 1)\nopt_g = torch.optim.RMSprop(g.parameters(), lr={{lr}})\n"
        "opt_c = torch.optim.RMSprop(critic.parameters(), lr={{lr}})",
        """
for p in critic.parameters():
    p.requires_grad = True
for _ in range(2):
    critic.zero_grad()
    for p in critic.parameters():
        p.data.clamp_(-0.01, 0.01)
    loss_real = critic(x).mean()
    loss_real.backward(torch.tensor(-1.0))
    fake = g(torch.randn(4, 8)).detach()
    loss_fake = critic(fake).mean()
    loss_fake.backward(torch.tensor(1.0))
    opt_c.step()
for p in critic.parameters():
    p.requires_grad = False
g.zero_grad()
g_loss = critic(g(torch.randn(4, 8))).mean()
g_loss.backward(torch.tensor(-1.0))
opt_g.step()
""",
    ),
    "vae-gan": (
        """
enc, dec, dis = mlp(8, 8), mlp(4, 8), mlp(8, 1)
opt_enc = torch.optim.Adam(enc.parameters(), lr={{lr}})
opt_dec = torch.optim.Adam(dec.parameters(), lr={{lr}})
opt_dis = torch.optim.Adam(dis.parameters(), lr={{lr}})
""",
        """
mu, logvar = enc(x).chunk(2, 1)
z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
rec = dec(z)
gan_loss = F.softplus(-dis(x)).mean() + F.softplus(dis(rec)).mean()
rec_loss = F.mse_loss(rec, x)
kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).mean()
opt_dis.zero_grad()
gan_loss.backward(retain_graph=True, inputs=list(dis.parameters()))
opt_enc.zero_grad()
(kl + rec_loss).backward(retain_graph=True, inputs=list(enc.parameters()))
opt_dec.zero_grad()
(rec_loss - 0.1 * gan_loss).backward(inputs=list(dec.parameters()))
opt_dis.step()
opt_enc.step()
opt_dec.step()
""",
    ),
    "soft intro": (
        """
enc, dec = mlp(8, 4), mlp(4, 8)
optimizer_e = torch.optim.Adam(enc.parameters(), lr={{lr}})
optimizer_d = torch.optim.Adam(dec.parameters(), lr={{lr}})
""",
        """
for param in enc.parameters():
    param.requires_grad = True
for param in dec.parameters():
    param.requires_grad = False
noise = torch.randn(4, 4)
fake = dec(noise)
rec = dec(enc(x))
loss_e = F.mse_loss(rec, x) + torch.exp(-F.mse_loss(dec(enc(fake.detach())), fake.detach()))
optimizer_e.zero_grad()
loss_e.backward()
optimizer_e.step()
for param in enc.parameters():
    param.requires_grad = False
for param in dec.parameters():
    param.requires_grad = True
fake = dec(noise)
rec = dec(enc(x).detach())
loss_d = F.mse_loss(rec, x) + F.mse_loss(dec(enc(fake)), fake.detach())
optimizer_d.zero_grad()
loss_d.backward()
optimizer_d.step()
""",
    ),
    "domain adversarial": (
        """
features, label, domain = mlp(8, 8), mlp(8, 1), mlp(8, 1)
opt_f = torch.optim.SGD(features.parameters(), lr={{lr}})
opt_c = torch.optim.SGD(label.parameters(), lr={{lr}})
opt_d = torch.optim.SGD(domain.parameters(), lr={{lr}})
""",
        """
mixed = torch.cat([x, x + 1])
flags = torch.cat([torch.ones(4, 1), torch.zeros(4, 1)])
feature = features(mixed)
loss = F.binary_cross_entropy_with_logits(domain(feature.detach()), flags)
opt_d.zero_grad()
loss.backward()
opt_d.step()
total = F.mse_loss(label(feature[:4]), y) - 0.1 * F.binary_cross_entropy_with_logits(domain(feature), flags)
opt_f.zero_grad()
opt_c.zero_grad()
opt_d.zero_grad()
total.backward()
opt_c.step()
opt_f.step()
""",
    ),
    "mcd": (
        """
gen, c1, c2 = mlp(8, 8), mlp(8, 1), mlp(8, 1)
opt_gen = torch.optim.SGD(gen.parameters(), lr={{lr}})
opt_c1 = torch.optim.SGD(c1.parameters(), lr={{lr}})
opt_c2 = torch.optim.SGD(c2.parameters(), lr={{lr}})
""",
        """
reset_grad(opt_gen, opt_c1, opt_c2)
feat = gen(x)
(F.mse_loss(c1(feat), y) + F.mse_loss(c2(feat), y)).backward()
opt_gen.step()
opt_c1.step()
opt_c2.step()
reset_grad(opt_gen, opt_c1, opt_c2)
feat = gen(x)
loss_s = F.mse_loss(c1(feat), y) + F.mse_loss(c2(feat), y)
loss_s = loss_s - (c1(feat) - c2(feat)).abs().mean()
loss_s.backward()
opt_c1.step()
opt_c2.step()
reset_grad(opt_gen, opt_c1, opt_c2)
for _ in range(2):
    feat = gen(x)
    (c1(feat) - c2(feat)).abs().mean().backward()
    opt_gen.step()
    reset_grad(opt_gen, opt_c1, opt_c2)
""",
        "def reset_grad(*optimizers):\n    for optimizer in optimizers:\n        optimizer.zero_grad()",
    ),
}

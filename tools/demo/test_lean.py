"""tools/demo/test_lean.py - lean.py computes what the public classes compute."""

import torch

import components
import lean


def error(a, b):
    return float((a - b).norm() / b.norm())


@torch.no_grad()
def main():
    torch.manual_seed(0)
    lm = components.language_model(300).eval()
    ids, prefix = torch.randint(0, 300, (3, 20)), torch.randint(0, 300, (7,))
    pads = torch.tensor([0, 4, 9])
    is_real = torch.arange(20)[None] >= pads[:, None]
    mine = lean.lm_states(dict(lm.model.named_parameters()), components.LM, ids, is_real, prefix)
    for row, pad in enumerate(pads):
        alone = lm.model(input_ids=torch.cat([prefix, ids[row, pad:]])[None]).last_hidden_state[0, 7:]
        print("lm", error(mine[row, pad:], alone))
        assert error(mine[row, pad:], alone) < 1e-5
    sana = components.diffusion().eval()
    for p in sana.parameters():
        p.add_(torch.randn_like(p) * 0.05)
    x, context = torch.randn(2, components.LATENT, 8, 8), torch.randn(2, 9, components.CONTEXT)
    t = torch.tensor([500.0, 33.3])
    wanted = sana(x, encoder_hidden_states=context, timestep=t).sample
    made = lean.sana_velocity(dict(sana.named_parameters()), components.SANA, x, context, t)
    print("sana", error(made, wanted))
    assert error(made, wanted) < 1e-4
    twice = lean.sana_velocity(dict(sana.named_parameters()), components.SANA, x, context[:1], t)
    wanted = sana(x, encoder_hidden_states=context[:1].expand(2, -1, -1), timestep=t).sample
    assert error(twice, wanted) < 1e-4
    connector = components.connector()
    h = torch.randn(2, 5, components.LM["hidden_size"])
    assert error(lean.connect(dict(connector.named_parameters()), h), connector(h)) < 1e-5


if __name__ == "__main__":
    main()

"""What the papers measured with the same encoders, and why it is not the same number."""

FIGURES = (  # benchmark, encoder, success in %, where it stands
    ("Franka Kitchen", "R3M, ResNet-50", "53.1 ± 2.7", "R3M, tables 1 and 2"),
    ("Franka Kitchen", "MoCo, the same Ego4D frames", "42.0 ± 2.8", "R3M, table 2"),
    ("Franka Kitchen", "MVP, ViT-B, EgoSoup", "27.0 ± 2.6", "R3M, table 2"),
    ("Adroit", "R3M, ResNet-50", "65.0 ± 1.7", "R3M, tables 1 and 2"),
    ("Adroit", "MoCo, the same Ego4D frames", "54.9 ± 2.7", "R3M, table 2"),
    ("Adroit", "MVP, ViT-B, EgoSoup", "51.4 ± 2.7", "R3M, table 2"),
    ("Meta-World", "R3M, ResNet-50", "69.2 ± 2.0", "R3M, table 1"),
    ("mean of the three", "R3M, ResNet-50", "62.4 ± 1.3", "R3M, table 1"),
    ("mean of CortexBench's seven", "R3M, ResNet-50", "58.0", "CortexBench"),
    ("mean of CortexBench's seven", "MVP, ViT-L", "67.5", "CortexBench"),
    ("mean of CortexBench's seven", "VC-1, ViT-L", "68.7", "CortexBench"),
)
SOURCES = (
    "R3M: Nair et al. 2022, https://arxiv.org/abs/2203.12601. CortexBench: Majumdar et al. 2023, https://arxiv.org/abs/2303.18240. "
    "± is their standard error; CortexBench's means were read from an extract of the paper."
)
DIFFERENCES = (
    "Other tasks, robots and pictures: theirs are Franka Kitchen, Meta-World v2 and Adroit (CortexBench adds DMControl, TriFinger, "
    "navigation and mobile manipulation). Success means something else there, for example the flag at the last step in Meta-World.",
    "R3M's score is the highest of 20 evaluations of 50 episodes each with other start states, which flatters: a policy whose true rate is "
    "50 % comes out at about 63 %. Its means are over three cameras, three numbers of demonstrations (5, 10, 25; Adroit 25, 50, 100) and "
    "three seeds.",
    "CortexBench gives the policy three frames and a network of three layers, and trains for 100 epochs.",
    "Their cameras stand still. Their encoders are the published ones; an encoder here is theirs only where its own weights were loaded.",
)

"""What others measured under moved cameras, and why it is not the same number."""

FIGURES = (  # benchmark, shift, what was measured, where it stands
    ("MoVie: DMC, xArm, Adroit", "novel, moving and shaking views", "gain of adapting: +33 % DMC, +86 % xArm, +152 % Adroit", "MoVie"),
    ("Colosseum: 20 RLBench tasks", "one factor; all factors", "success falls by 30 to 50 %; by 75 % or more", "Colosseum"),
    ("LIBERO-Plus: camera variants", "OpenVLA; OFT; OFT without its wrist view", "success 0.8 %; 56.4 %; 10.4 %", "LIBERO-Plus"),
    ("LIBERO-Plus: camera variants", "NORA; WorldVLA; UniVLA; π0; π0-FAST", "success 2.2; 0.1; 1.8; 13.8; 65.1 %", "LIBERO-Plus"),
    ("LIBERO-Plus: camera variants", "RIPT; OFT_m; OFT+ trained on the variants", "success 55.2; 55.6; 92.8 %", "LIBERO-Plus"),
    ("Factor World: 19 Meta-World tasks", "11 factors", "camera position and table texture are the hardest", "Factor World"),
    ("ManiVID-3D: 10 tasks", "view variation", "+40.6 points over the best before", "2509.11125"),
    ("GEM3D: RLBench", "moderate; large shift", "relative drop 22.0; 29.7 % (before: 41.6; 51.5 %)", "2601.22988"),
    ("FLA: LIBERO", "novel views", "success 48.5 to 87.1 % with 4K trained parameters, 90.8 % with 4.7M", "2512.02902"),
    ("GenSplat", "novel views", "up to +13.3 points", "2603.29192"),
)
SOURCES = (
    "MoVie: Yang et al. 2023, https://arxiv.org/abs/2307.00972. Factor World: Xie et al. 2023, https://arxiv.org/abs/2307.03659. Numbers "
    "such as 2509.11125 are addresses on arXiv. These figures were read from extracts of the papers and their code, MoVie's per-task "
    "figures and those in plots are left out."
)
DIFFERENCES = (
    "A preset moves our cameras through the ranges that a benchmark published. The tasks, robots, pictures and policies are ours: the "
    "ranges match, the tasks differ, so that no number here is to be read as a result on that benchmark.",
    "They count unlike each other, too: LIBERO-Plus gives each variant one trial; most tell no interval; some move the wrist camera and "
    "some do not; and elsewhere nobody says whether the gripper and the object stayed in view.",
)

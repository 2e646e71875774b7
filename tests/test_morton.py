import torch
from utils.morton import MOST_BITS, morton_order


def test_the_corners_of_a_cube_follow_the_curve():
    ends = torch.tensor([-1.0, 1.0])
    cube = torch.cartesian_prod(ends, ends, ends)[
        torch.randperm(8, generator=torch.Generator().manual_seed(0))
    ]
    x, y, z = (cube[morton_order(cube)] > 0).int().T.tolist()
    assert (x, y, z) == ([0, 1] * 4, [0, 0, 1, 1] * 2, [0] * 4 + [1] * 4)


def test_neighbours_in_order_are_neighbours_in_space_and_what_is_far_out_disturbs_nobody():
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(4096, 3, generator=generator)
    points[:3] = torch.tensor([[1e30, 0, 0], [0, -1e12, 0], [3e38, 3e38, -3e38]])
    ordered = points[morton_order(points)]
    near = (ordered[1:] - ordered[:-1]).norm(dim=1).median()
    shuffled = points[torch.randperm(4096, generator=generator)]
    assert near < 0.12 < 0.5 < (shuffled[1:] - shuffled[:-1]).norm(dim=1).median()


def test_with_all_bits_close_points_are_told_apart():
    points = torch.tensor([[3e-6, 0.0, 0.0], [1e-6, 0.0, 0.0], [2e-6, 0.0, 0.0], [-1.0, -1, -1], [1.0, 1, 1]])
    assert morton_order(points.double(), MOST_BITS)[1:4].tolist() == [1, 2, 0]


def test_points_of_one_cell_keep_their_order():
    assert morton_order(torch.ones(5, 3)).tolist() == [0, 1, 2, 3, 4]
    assert morton_order(torch.zeros(0, 3)).tolist() == []

"""Capacities grow in few steps; the rest of the plan is tested with the operations and the engine."""

from pointcept.structures.octree_plan import SMALLEST_CAPACITY, choose_capacities, round_up


def test_capacities_hold_what_they_are_for():
    sizes = [*range(1, 3000), *range(3000, 300000, 997)]
    rooms = [round_up(n) for n in sizes]
    assert all(n <= room and room % 16 == 0 for n, room in zip(sizes, rooms, strict=True))
    assert all(room <= 1.5 * n for n, room in zip(sizes, rooms, strict=True) if n > SMALLEST_CAPACITY)
    assert rooms == sorted(rooms)
    assert len(set(rooms)) < 70


def test_coarse_levels_never_have_more_room_than_finer_ones():
    capacities = choose_capacities([23112, 23000, 12614, 7925, 4499, 1])
    assert list(capacities) == sorted(capacities, reverse=True)
    assert all(n <= room for n, room in zip([23112, 23000, 12614, 7925, 4499, 1], capacities, strict=True))

//! Copies of rows in bursts.

use super::*;

/// A copy of rows, how it is to differ from one that is in order, and what is 0 in it.
#[derive(Debug, Clone)]
struct Rowed {
    from: (usize, u64),
    to: (usize, u64),
    row: u64,
    rows: u64,
    strides: [u64; 2],
    more: u64,
    reserved: u16,
}

impl Rowed {
    fn size(&self) -> u64 {
        self.row * self.rows + self.more
    }

    fn descriptor(&self, world: &World) -> Descriptor {
        let ((src_slot, src), (dst_slot, dst)) = (world.place(self.from), world.place(self.to));
        let fields = CopySgFields {
            row_bytes: self.row as u32,
            src_stride: self.strides[0],
            dst_stride: self.strides[1],
            src_count: self.reserved,
            ..CopySgFields::default()
        };
        Descriptor {
            word0: Word0::new(src_slot, dst_slot, false).0,
            src,
            dst,
            size: self.size() as u32,
            ..Descriptor::new(Opcode::CopySg, Flags::NONE)
        }
        .with_operands(fields.to_bytes())
    }

    /// Copies them byte by byte, if both operands are in large pages.
    fn copy(&self, memory: &mut [[Vec<u8>; 2]]) {
        let whose = |slot| match slot {
            WIDE_OF_ALICE => 0,
            WIDE_OF_BOB => 1,
            _ => panic!("a large page"),
        };
        for i in 0..self.rows {
            for at in 0..self.row {
                let from = self.from.1 + i * self.strides[0] + at;
                let to = self.to.1 + i * self.strides[1] + at;
                memory[whose(self.to.0)][1][to as usize] =
                    memory[whose(self.from.0)][1][from as usize];
            }
        }
    }
}

/// Most of them in order and in large pages, and no more than a chunk. No byte of a source is one of the destination: what those are
/// afterwards is not specified.
fn rows() -> impl Strategy<Value = Vec<Rowed>> {
    let wide =
        || prop_oneof![20 => Just(WIDE_OF_BOB), 20 => Just(WIDE_OF_ALICE), 1 => 0..=WIDE_OF_ALICE];
    let row = prop_oneof![3 => 1..300_u64, 1 => 3900..4200_u64, 1 => Just(4096_u64)];
    let stride = || prop_oneof![4 => 0..600_u64, 1 => Just(0_u64)];
    let one = (
        (wide(), 0..20_000_u64),
        (
            wide(),
            prop_oneof![9 => 100_000..110_000_u64, 1 => WIDE_BYTES - 5000..WIDE_BYTES + 10],
        ),
        row,
        1..18_u64,
        [stride(), stride()],
        any::<[bool; 2]>(),
        prop_oneof![20 => Just((0_u64, 0_u16)), 1 => Just((1, 0)), 1 => Just((0, 1))],
    )
        .prop_map(
            |(from, to, row, rows, slack, packed, (more, reserved))| Rowed {
                from,
                to,
                row,
                rows,
                // With gaps, or one over the other.
                strides: [0, 1].map(|i| if packed[i] { slack[i] } else { row + slack[i] }),
                more,
                reserved,
            },
        );
    proptest::collection::vec(one, 2..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn a_burst_of_rows_does_what_each_would_do_alone(
        bursts in proptest::collection::vec((event(), rows()), 1..4),
    ) {
        let (mut together, mut alone) = (World::new(), World::new());
        for (event, rows) in &bursts {
            for world in [&together, &alone] {
                world.happen(event);
            }
            let of = |world: &World| rows.iter().map(|r| r.descriptor(world)).collect::<Vec<_>>();
            let (all, single) = (of(&together), of(&alone));
            let ended = together.serve(&all);
            let expected: Vec<_> = single.chunks(1).flat_map(|d| alone.serve(d)).collect();
            prop_assert_eq!(ended, expected);
            prop_assert!(together.state() == alone.state(), "memory or counts differ");
            prop_assert_eq!(together.logged(), alone.logged());
        }
    }

    #[test]
    fn rows_in_a_burst_lie_at_their_strides_and_are_counted(rows in rows()) {
        let mut world = World::new();
        let is_wide = |slot| slot == WIDE_OF_ALICE || slot == WIDE_OF_BOB;
        let good: Vec<_> = (rows.into_iter())
            .map(|row| Rowed { more: 0, reserved: 0, ..row })
            .filter(|row| is_wide(row.from.0) && is_wide(row.to.0))
            .filter(|row| row.to.1 + (row.rows - 1) * row.strides[1] + row.row <= WIDE_BYTES)
            .collect();
        let (mut memory, _) = world.state();
        let mut traffic = Traffic::default();
        for row in &good {
            row.copy(&mut memory);
            traffic.read += if row.from.0 == WIDE_OF_BOB { row.size() } else { 0 };
            traffic.written += if row.to.0 == WIDE_OF_BOB { row.size() } else { 0 };
        }
        let all: Vec<_> = good.iter().map(|row| row.descriptor(&world)).collect();
        for (row, completion) in good.iter().zip(world.serve(&all)) {
            prop_assert_eq!(completion.status(), Some(Status::Success));
            prop_assert_eq!(u64::from(completion.bytes_completed), row.size());
        }
        let (found, counted) = world.state();
        prop_assert!(found == memory, "memory differs");
        prop_assert_eq!(counted[WIDE_OF_BOB - 1], traffic);
    }
}

#[test]
fn of_rows_in_a_burst_each_is_told_that_its_region_is_gone() {
    for (from, to) in [(WIDE_OF_BOB, WIDE_OF_ALICE), (WIDE_OF_ALICE, WIDE_OF_BOB)] {
        let mut world = World::new();
        let copy = Rowed {
            from: (from, 0),
            to: (to, 100_000),
            row: 100,
            rows: 20,
            strides: [200, 300],
            more: 0,
            reserved: 0,
        };
        let all = vec![copy.descriptor(&world); 4];
        // Where everything lies is known afterwards, so that nothing of what is lost is looked at before it is copied.
        for completion in world.serve(&all) {
            assert_eq!(completion.status(), Some(Status::Success));
        }
        world.bob.guest().file().set_len(0).unwrap();
        for completion in world.serve(&all) {
            assert_eq!(completion.status(), Some(Status::RemoteFault));
            assert_eq!(completion.bytes_completed, 2000);
        }
    }
}

//! Bytes at random, always the same ones for a seed.

pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Less than `end`. (Steele, Lea and Flood's `SplitMix64`.)
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }

    pub fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    pub fn char(&mut self) -> char {
        char::from_u32(u32::try_from(self.below(0x11_0000)).unwrap()).unwrap_or('x')
    }

    /// So many at most.
    pub fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| self.byte()).collect()
    }

    /// The same bytes but for a few that were changed, removed, doubled or moved.
    pub fn changed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(changed.len().max(1));
            let end = (at + self.below(8)).min(changed.len());
            match self.below(4) {
                0 if at < changed.len() => changed[at] = self.byte(),
                1 => drop(changed.drain(at..end)),
                2 => changed.extend_from_within(at..end),
                _ => changed.insert(at, self.byte()),
            }
        }
        changed
    }
}

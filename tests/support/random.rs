//! Random numbers that a seed reproduces: SplitMix64 (Steele, Lea, Flood 2014).

/// A source of numbers.
pub struct Random(u64);

impl Random {
    /// Seeded by `MESSINA_TEST_SEED`, otherwise by the clock. The seed is printed, so that a failure can be reproduced.
    pub fn seeded(test: &str) -> Random {
        let seed = std::env::var("MESSINA_TEST_SEED").map_or_else(
            |_| {
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap()
                    .as_secs()
            },
            |text| text.parse().unwrap(),
        );
        println!("{test}: MESSINA_TEST_SEED={seed}");
        Random(seed)
    }

    /// A source with this seed.
    pub fn from(seed: u64) -> Random {
        Random(seed)
    }

    /// A number in `0..limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

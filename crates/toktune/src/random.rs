//! A generator of random numbers that gives the same ones for the same seed for ever: for the order of rows, the start of
//! rows, and the choice of tokens.
//!
//! SplitMix64 (Steele, Lea and Flood 2014): a few lines that cannot change under us, as a dependency's
//! default could.

/// Uniform numbers from a seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers of `seed` that belong to something of these names, apart from those of anything else.
    pub(crate) fn named(seed: u64, names: &[&str]) -> Self {
        let mut state = Self(seed).next();
        for byte in names.iter().flat_map(|name| name.bytes().chain([0])) {
            state = Self(state ^ u64::from(byte)).next();
        }
        Self(state)
    }

    /// 64 uniform bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `[0, 1)`.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `bound`, each equally likely: draws from the incomplete last interval are thrown away.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let complete = u64::MAX - u64::MAX % bound;
        loop {
            let drawn = self.next();
            if drawn < complete {
                return drawn % bound;
            }
        }
    }

    /// A standard normal number (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        // 1 - u is in (0, 1], which has a logarithm
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_algorithm() {
        let mut random = Random::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([random.next(), random.next(), random.next()], expected);
    }

    #[test]
    fn uniform_numbers_fill_the_interval() {
        let mut random = Random::new(0);
        let mut tenths = [0; 10];
        (0..10_000).for_each(|_| tenths[(10.0 * random.uniform()) as usize] += 1);
        assert!(tenths.iter().all(|count| (900..1100).contains(count)), "{tenths:?}");
    }

    #[test]
    fn normal_numbers_have_their_moments() {
        let mut random = Random::new(7);
        let x: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}

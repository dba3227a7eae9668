//! The share of pictures to which a model in another precision gives the same class as in f32.

use std::fmt;

/// A number of pictures, and how many of them get the same likeliest class as in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Pictures with the same likeliest class; at most `pictures`.
    pub agreeing: u64,
    /// All pictures that were compared.
    pub pictures: u64,
}

impl Agreement {
    /// Counts one picture.
    pub fn count(&mut self, agrees: bool) {
        self.agreeing += u64::from(agrees);
        self.pictures += 1;
    }

    /// The share of the pictures that agree, 0 to 1; 0 without pictures.
    pub fn share(self) -> f64 {
        self.agreeing as f64 / self.pictures.max(1) as f64
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded down, so that 99.999 % is not shown as 100 %.
        let percent = (self.share() * 1e4).floor() / 1e2;
        write!(f, "{percent:.2} % ({} of {} pictures)", self.agreeing, self.pictures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_down_and_no_pictures_agree_in_nothing() {
        for (agreeing, pictures, text) in [
            (0, 0, "0.00 % (0 of 0 pictures)"),
            (99_999, 100_000, "99.99 % (99999 of 100000 pictures)"),
            (7, 7, "100.00 % (7 of 7 pictures)"),
        ] {
            assert_eq!(Agreement { agreeing, pictures }.to_string(), text);
        }
        let mut agreement = Agreement::default();
        for agrees in [true, false, true, true] {
            agreement.count(agrees);
        }
        assert_eq!(agreement.share(), 0.75);
    }
}

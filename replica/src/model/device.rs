//! Where a model runs and how exact it is.

use std::fmt;
use std::str::FromStr;

/// `--device`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The graphics card of that number.
    Cuda(usize),
    /// The first graphics card if there is one, else the processor.
    Auto,
}

/// `--precision`: of weights and of what lies between layers. Logits are always single.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
}

/// There is no such device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch can use none at all.
    #[error(
        "--device {0}: libtorch finds no CUDA device; it needs a CUDA build of libtorch (LIBTORCH when building), \
         a driver, and a card that the process may use; --device cpu runs without"
    )]
    NoCuda(Device),
    /// The number is too large.
    #[error("--device {wanted}: there are {count} CUDA devices, numbered from 0")]
    NoSuchCard {
        /// What was asked for.
        wanted: Device,
        /// How many there are.
        count: i64,
    },
}

impl Device {
    /// What libtorch calls it.
    ///
    /// # Errors
    /// When there is no such device.
    pub(super) fn find(self) -> Result<tch::Device, Error> {
        let available = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
        match self {
            Self::Cuda(_) if available == 0 => Err(Error::NoCuda(self)),
            Self::Cuda(index) if index as i64 >= available => Err(Error::NoSuchCard { wanted: self, count: available }),
            Self::Cuda(index) => Ok(tch::Device::Cuda(index)),
            Self::Auto if available > 0 => Ok(tch::Device::Cuda(0)),
            Self::Auto | Self::Cpu => Ok(tch::Device::Cpu),
        }
    }
}

impl Precision {
    pub(super) fn kind(self) -> tch::Kind {
        match self {
            Self::F32 => tch::Kind::Float,
            Self::F16 => tch::Kind::Half,
            Self::Bf16 => tch::Kind::BFloat16,
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not the number of a device"));
        match text {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:") {
                Some(index) => number(index).map(Self::Cuda),
                None => Err("give cpu, cuda, cuda:1 or auto".into()),
            },
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written_alike() {
        for (text, expected) in
            [("cpu", Device::Cpu), ("auto", Device::Auto), ("cuda:0", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))]
        {
            assert_eq!(text.parse(), Ok(expected));
            assert_eq!(expected.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cuda0"] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_card_that_is_not_there_is_an_error_that_says_so() {
        let message = Device::Cuda(999).find().expect_err("nobody has that many").to_string();
        assert!(message.contains("cuda:999"), "{message}");
        assert!(Device::Auto.find().is_ok());
    }
}

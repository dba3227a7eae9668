//! The device that a model runs on, and the precision that it is computed in.

use std::fmt;
use std::str::FromStr;

/// `--device`: the device that computes the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// The CUDA device with this number. The first device is number 0.
    Cuda(usize),
    /// The first CUDA device if there is one, else the CPU.
    Auto,
}

/// `--precision`: the type of weights and activations. Logits are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// IEEE single precision, 32 bits
    F32,
    /// IEEE half precision, 16 bits
    F16,
    /// bfloat16: the upper 16 bits of f32
    Bf16,
    /// 8-bit integers, for a file that `replica quantize` has written; on the CPU, with VNNI instructions
    Int8,
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch finds no CUDA device that it can use.
    #[error(
        "--device {0}: libtorch finds no CUDA device. It needs a CUDA build of libtorch (LIBTORCH when building), \
         a driver, and a card that the process may use; or give --device cpu"
    )]
    NoCuda(Device),
    /// The flag names a CUDA device whose number is higher than that of the last device.
    #[error("--device {device}: there are {count} CUDA devices, numbered from 0; name one of them, or auto")]
    NoSuchDevice {
        /// The device that the flag names.
        device: Device,
        /// Number of CUDA devices.
        count: i64,
    },
}

impl Device {
    /// The device as libtorch's type.
    ///
    /// # Errors
    /// If there is no such CUDA device.
    pub(super) fn find(self) -> Result<tch::Device, Error> {
        let available = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
        match self {
            Self::Cuda(_) if available == 0 => Err(Error::NoCuda(self)),
            Self::Cuda(index) if index as i64 >= available => {
                Err(Error::NoSuchDevice { device: self, count: available })
            }
            Self::Cuda(index) => Ok(tch::Device::Cuda(index)),
            Self::Auto if available > 0 => Ok(tch::Device::Cuda(0)),
            Self::Auto | Self::Cpu => Ok(tch::Device::Cpu),
        }
    }
}

impl Precision {
    /// The precision as libtorch's type: of images and logits in the case of integers.
    pub(super) fn kind(self) -> tch::Kind {
        match self {
            Self::F32 | Self::Int8 => tch::Kind::Float,
            Self::F16 => tch::Kind::Half,
            Self::Bf16 => tch::Kind::BFloat16,
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| {
            text.parse()
                .map_err(|_| format!("{text:?} is no number of a CUDA device; give cuda:0 for the first device"))
        };
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
    fn devices_are_parsed_and_displayed_alike() {
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
    fn a_missing_cuda_device_is_an_error_that_names_it() {
        let message = Device::Cuda(999).find().expect_err("no machine has 1000 devices").to_string();
        assert!(message.contains("cuda:999"), "{message}");
        assert!(Device::Auto.find().is_ok());
    }
}

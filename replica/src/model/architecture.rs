//! The residual networks that are known by name, with the kind and number of their blocks.
//!
//! Source: He et al. 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385, table 1.

use std::fmt;
use std::str::FromStr;

/// A residual network whose tensors have torchvision's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 18 layers with weights, in basic blocks.
    ResNet18,
    /// 34 layers with weights, in basic blocks.
    ResNet34,
    /// 50 layers with weights, in bottleneck blocks.
    ResNet50,
}

/// The kind of a network's residual blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// A 1×1, a 3×3 and a 1×1 convolution; the last one has four times as many output channels.
    Bottleneck,
}

const ALL: [Architecture; 3] = [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50];

impl Architecture {
    /// The name that torchvision gives to the network.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
        }
    }

    /// The architecture whose tensors have these names. Only ResNet-50 has a third convolution in each block. Without
    /// one, a third block in the first stage means ResNet-34, and its absence means ResNet-18.
    pub fn recognise<'a>(mut names: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self::ResNet18;
        names.any(|name| {
            if name.starts_with("layer1.0.conv3.") {
                found = Self::ResNet50;
            } else if name.starts_with("layer1.2.") && found == Self::ResNet18 {
                found = Self::ResNet34;
            }
            found == Self::ResNet50
        });
        found
    }

    /// The kind of all blocks of the network.
    pub(super) fn block(self) -> BlockKind {
        match self {
            Self::ResNet18 | Self::ResNet34 => BlockKind::Basic,
            Self::ResNet50 => BlockKind::Bottleneck,
        }
    }

    /// Number of blocks in each of the four stages.
    pub(super) fn stages(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = || ALL.map(Self::name).join(", ");
        ALL.into_iter().find(|known| known.name() == text).ok_or_else(|| format!("give one of {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tensors_tell_the_architecture() {
        for (names, expected) in [
            (&["fc.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight"][..], Architecture::ResNet18),
            (&["layer1.2.bn1.bias", "layer1.0.conv1.weight"], Architecture::ResNet34),
            (&["layer1.2.bn1.bias", "layer1.0.conv3.weight"], Architecture::ResNet50),
            (&[], Architecture::ResNet18),
        ] {
            assert_eq!(Architecture::recognise(names.iter().copied()), expected, "{names:?}");
        }
        assert_eq!("resnet34".parse(), Ok(Architecture::ResNet34));
        assert!("resnet19".parse::<Architecture>().expect_err("unknown").contains("resnet18, resnet34, resnet50"));
    }
}

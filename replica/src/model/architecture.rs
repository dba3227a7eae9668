//! The residual networks that are known by name: how many blocks of which kind (He et al. 2015, arXiv:1512.03385, table 1).

use std::fmt;
use std::str::FromStr;

/// One of them, with torchvision's names of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// 18 layers of weights, basic blocks.
    ResNet18,
    /// 34 layers, basic blocks.
    ResNet34,
    /// 50 layers, bottlenecks.
    ResNet50,
}

/// What a network is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3 and 1×1, the last with four times as many channels.
    Bottleneck,
}

const ALL: [Architecture; 3] = [Architecture::ResNet18, Architecture::ResNet34, Architecture::ResNet50];

impl Architecture {
    /// As torchvision calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
        }
    }

    /// The one whose weights have such names: a bottleneck has a third convolution, and more blocks in a stage are the
    /// deeper network's.
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

    pub(super) fn block(self) -> BlockKind {
        match self {
            Self::ResNet18 | Self::ResNet34 => BlockKind::Basic,
            Self::ResNet50 => BlockKind::Bottleneck,
        }
    }

    /// Blocks of the four stages.
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
        ALL.into_iter().find(|known| known.name() == text).ok_or_else(|| format!("known are {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_tell_what_they_are() {
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

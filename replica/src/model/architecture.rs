//! The shape of a residual network: the kind, number and widths of its blocks. The shapes of its tensors tell it.
//!
//! Sources: He et al. 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385, table 1; Xie et al. 2016,
//! Aggregated Residual Transformations, arXiv:1611.05431 (groups); Zagoruyko and Komodakis 2016, Wide Residual Networks,
//! arXiv:1605.07146.

use super::weights::{Error, Weights};
use std::fmt;
use std::str::FromStr;

/// Number of stages of a residual network.
pub(super) const STAGES: usize = 4;

/// A residual network with a 7×7 stem and four stages: ResNet, Wide ResNet or ResNeXt of any depth and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    pub(super) block: BlockKind,
    /// Number of blocks in each stage.
    pub(super) blocks: [usize; STAGES],
    /// Number of output channels of the stem.
    pub(super) stem: usize,
    /// Number of channels within the blocks of each stage.
    pub(super) inner: [usize; STAGES],
    /// Number of output channels of each stage.
    pub(super) outputs: [usize; STAGES],
    /// Number of groups of the 3×3 convolutions in bottleneck blocks.
    pub(super) groups: usize,
    /// The convolution that halves the sides of the images in a stage's first bottleneck block.
    pub(super) stride: StridePlace,
}

/// The kind of a network's residual blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// A 1×1, a 3×3 and a 1×1 convolution.
    Bottleneck,
}

/// The convolution of a bottleneck block that has the stride. Weights do not tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StridePlace {
    /// The 3×3 convolution, as in torchvision and timm, and in transformers by default.
    Second,
    /// The first 1×1 convolution, as in the paper, and in transformers with `downsample_in_bottleneck`.
    First,
}

/// The networks that `--architecture` can name: name, blocks, groups, and channels of a group in the first stage.
#[rustfmt::skip]
const KNOWN: [(&str, BlockKind, [usize; STAGES], usize, usize); 16] = {
    use BlockKind::{Basic, Bottleneck};
    [
        ("resnet10", Basic, [1, 1, 1, 1], 1, 64),
        ("resnet14", Bottleneck, [1, 1, 1, 1], 1, 64),
        ("resnet18", Basic, [2, 2, 2, 2], 1, 64),
        ("resnet26", Bottleneck, [2, 2, 2, 2], 1, 64),
        ("resnet34", Basic, [3, 4, 6, 3], 1, 64),
        ("resnet50", Bottleneck, [3, 4, 6, 3], 1, 64),
        ("resnet101", Bottleneck, [3, 4, 23, 3], 1, 64),
        ("resnet152", Bottleneck, [3, 8, 36, 3], 1, 64),
        ("wide_resnet50_2", Bottleneck, [3, 4, 6, 3], 1, 128),
        ("wide_resnet101_2", Bottleneck, [3, 4, 23, 3], 1, 128),
        ("resnext50_32x4d", Bottleneck, [3, 4, 6, 3], 32, 4),
        ("resnext101_32x8d", Bottleneck, [3, 4, 23, 3], 32, 8),
        ("resnext101_32x16d", Bottleneck, [3, 4, 23, 3], 32, 16),
        ("resnext101_32x32d", Bottleneck, [3, 4, 23, 3], 32, 32),
        ("resnext101_32x48d", Bottleneck, [3, 4, 23, 3], 32, 48),
        ("resnext101_64x4d", Bottleneck, [3, 4, 23, 3], 64, 4),
    ]
};

/// Parts of other networks whose tensors have similar names: a part of such a name, and the part of the network.
const OTHER_PARTS: [(&str, &str); 8] = [
    ("conv1.0.weight", "a stem of several convolutions, as timm's resnet50d, resnet50s and resnet50t"),
    (".downsample.2.", "an average pooling before the convolution of a shortcut, as timm's resnet50d"),
    (".se.", "squeeze-and-excitation or channel attention, as timm's seresnet50 and ecaresnet50"),
    (".convs.", "several convolutions in one layer, as Res2Net"),
    (".conv2.conv", "split attention or selective kernels, as ResNeSt and SKNet"),
    ("attnpool.", "attention pooling, as CLIP"),
    (".shortcut.", "shortcuts of a network for small images, such as a ResNet for CIFAR"),
    ("layer5.", "a fifth stage"),
];

impl Architecture {
    /// ResNet-18.
    pub const RESNET_18: Self = Self::standard(BlockKind::Basic, [2, 2, 2, 2], 1, 64);
    /// ResNet-34.
    pub const RESNET_34: Self = Self::standard(BlockKind::Basic, [3, 4, 6, 3], 1, 64);
    /// ResNet-50.
    pub const RESNET_50: Self = Self::standard(BlockKind::Bottleneck, [3, 4, 6, 3], 1, 64);

    /// A network with the papers' widths. `width` is the number of channels of a group in the first stage.
    const fn standard(block: BlockKind, blocks: [usize; STAGES], groups: usize, width: usize) -> Self {
        let inner = groups * width;
        let outputs = match block {
            BlockKind::Basic => 64,
            BlockKind::Bottleneck => 256,
        };
        Self {
            block,
            blocks,
            stem: 64,
            inner: [inner, 2 * inner, 4 * inner, 8 * inner],
            outputs: [outputs, 2 * outputs, 4 * outputs, 8 * outputs],
            groups,
            stride: StridePlace::Second,
        }
    }

    /// The architecture that `weights` have. The names tell the number of blocks; a third convolution in a block means
    /// bottleneck blocks. The shapes tell widths and groups.
    ///
    /// # Errors
    /// If the tensors are those of another kind of network, or tensors are missing.
    pub fn recognise(weights: &Weights) -> Result<Self, Error> {
        for (mark, part) in OTHER_PARTS {
            if let Some(name) = weights.names().filter(|name| name.contains(mark)).min() {
                return Err(weights.other_network(name, part));
            }
        }
        let is_bottleneck = weights.names().any(|name| name.starts_with("layer1.0.conv3."));
        let (block, last) = match is_bottleneck {
            true => (BlockKind::Bottleneck, "conv3"),
            false => (BlockKind::Basic, "conv2"),
        };
        let length = |name: String, dimension: usize| weights.length(&name, dimension);
        let mut found = Self { block, stem: length("conv1.weight".into(), 0)?, ..Self::RESNET_18 };
        for stage in 0..STAGES {
            let first = format!("layer{}.0", stage + 1);
            found.blocks[stage] = weights.blocks(stage + 1).max(1);
            found.inner[stage] = length(format!("{first}.conv1.weight"), 0)?;
            found.outputs[stage] = length(format!("{first}.{last}.weight"), 0)?;
        }
        if is_bottleneck {
            let group = length("layer1.0.conv2.weight".into(), 1)?;
            found.groups = (found.inner[0] / group).max(1);
        }
        match found.inner.iter().all(|inner| inner % found.groups == 0) {
            true => Ok(found),
            false => Err(weights.other_network("layer1.0.conv2.weight", "other groups in each stage")),
        }
    }

    /// The network that torchvision or timm calls `name`, such as `resnet50.a1_in1k` or `gluon_resnet50_v1b`; `None` for
    /// a network that cannot be computed.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = name.split('.').next().unwrap_or_default();
        let name =
            ["tv_", "gluon_", "ssl_", "swsl_", "ig_"].iter().find_map(|start| name.strip_prefix(start)).unwrap_or(name);
        name.strip_suffix("_v1b").unwrap_or(name).parse().ok()
    }

    /// The name that torchvision or timm gives to the network. Another network is named after the numbers of its
    /// blocks: `resnet-3-5-5-3`.
    pub fn name(self) -> String {
        let plain = Self { stride: StridePlace::Second, ..self };
        let known = KNOWN
            .iter()
            .find(|(_, block, blocks, groups, width)| plain == Self::standard(*block, *blocks, *groups, *width));
        match known {
            Some((name, ..)) => (*name).to_owned(),
            None => {
                let kind = if self.groups > 1 { "resnext" } else { "resnet" };
                let blocks = self.blocks.map(|blocks| blocks.to_string()).join("-");
                format!("{kind}-{blocks}")
            }
        }
    }

    /// The names of all tensors of the network.
    pub(super) fn tensors(self) -> impl Iterator<Item = String> {
        let layers = match self.block {
            BlockKind::Basic => 2,
            BlockKind::Bottleneck => 3,
        };
        let mut modules = vec![("conv1".to_owned(), "bn1".to_owned())];
        for stage in 0..STAGES {
            for index in 0..self.blocks[stage] {
                let block = format!("layer{}.{index}", stage + 1);
                modules
                    .extend((1..=layers).map(|layer| (format!("{block}.conv{layer}"), format!("{block}.bn{layer}"))));
                if self.has_shortcut(stage, index) {
                    modules.push((format!("{block}.downsample.0"), format!("{block}.downsample.1")));
                }
            }
        }
        let normalised = |(conv, bn): (String, String)| {
            let norm = ["weight", "bias", "running_mean", "running_var"].map(|name| format!("{bn}.{name}"));
            [format!("{conv}.weight")].into_iter().chain(norm)
        };
        modules.into_iter().flat_map(normalised).chain(["fc.weight".to_owned(), "fc.bias".to_owned()])
    }

    /// Whether the shortcut of a block has a convolution: if the block halves the sides of the images, or has another
    /// number of output than of input channels.
    pub(super) fn has_shortcut(self, stage: usize, index: usize) -> bool {
        index == 0 && (stage > 0 || self.stem != self.outputs[0])
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = || KNOWN.map(|(name, ..)| name).join(", ");
        let found = KNOWN.iter().find(|(name, ..)| *name == text);
        found
            .map(|(_, block, blocks, groups, width)| Self::standard(*block, *blocks, *groups, *width))
            .ok_or_else(|| format!("give one of {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_network_has_its_name() {
        for (name, ..) in KNOWN {
            let architecture: Architecture = name.parse().expect("the name is known");
            assert_eq!(architecture.name(), name);
            assert_eq!(Architecture { stride: StridePlace::First, ..architecture }.name(), name);
        }
        let deep = Architecture { blocks: [3, 5, 5, 3], ..Architecture::RESNET_50 };
        assert_eq!(deep.name(), "resnet-3-5-5-3");
        let refused = "resnet19".parse::<Architecture>().expect_err("unknown");
        assert!(refused.contains("resnet18, resnet26, resnet34"), "{refused}");
    }

    #[test]
    fn names_of_timm_with_the_same_network_are_known() {
        for (name, expected) in [
            ("resnet18", Some("resnet18")),
            ("resnet50.a1_in1k", Some("resnet50")),
            ("tv_resnet34.tv_in1k", Some("resnet34")),
            ("gluon_resnet50_v1b", Some("resnet50")),
            ("ig_resnext101_32x48d", Some("resnext101_32x48d")),
            ("gluon_resnet50_v1s", None),
            ("resnetblur50", None),
            ("resnet50d.ra2_in1k", None),
        ] {
            assert_eq!(Architecture::named(name).map(Architecture::name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_network_has_as_many_tensors_as_torchvision_writes() {
        // The numbers of torchvision's state dicts without `num_batches_tracked`.
        for (name, count) in [("resnet18", 102), ("resnet34", 182), ("resnet50", 267), ("resnext101_32x8d", 522)] {
            let architecture: Architecture = name.parse().expect("the name is known");
            assert_eq!(architecture.tensors().count(), count, "{name}");
        }
    }
}

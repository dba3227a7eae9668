//! The names of a residual network's tensors in torchvision's scheme, which timm shares, and in that of transformers
//! (Hugging Face). All other files use torchvision's names.

/// How a file names the tensors of a residual network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `conv1.weight`, `layer1.0.bn2.bias`, `fc.weight`.
    Torchvision,
    /// `resnet.embedder.embedder.convolution.weight`, `resnet.encoder.stages.0.layers.0.layer.1.normalization.bias`,
    /// `classifier.1.weight`.
    Transformers,
}

impl Scheme {
    /// The scheme of a tensor in the first block, and the prefix before its name; `None` for other tensors.
    pub(super) fn of(name: &str) -> Option<(&str, Self)> {
        let prefix = |mark: &str| {
            let before = &name[..name.find(mark)?];
            (before.is_empty() || before.ends_with('.')).then_some(before)
        };
        match prefix("encoder.stages.0.layers.0.") {
            // Without a classifier, transformers names the network itself nothing. Other networks have other names.
            Some("") => Some(("", Self::Transformers)),
            Some(before) => Some((before.strip_suffix("resnet.")?, Self::Transformers)),
            None => prefix("layer1.0.").map(|prefix| (prefix, Self::Torchvision)),
        }
    }

    /// torchvision's name of the tensor that the scheme calls `name`. A name that the scheme does not have is returned
    /// unchanged.
    pub(super) fn torchvision(self, name: &str) -> String {
        match self {
            Self::Torchvision => None,
            Self::Transformers => from_transformers(name),
        }
        .unwrap_or_else(|| name.to_owned())
    }
}

/// torchvision's name of the tensor that transformers calls `name`.
fn from_transformers(name: &str) -> Option<String> {
    if let Some(parameter) = name.strip_prefix("classifier.1.") {
        return Some(format!("fc.{parameter}"));
    }
    let name = name.strip_prefix("resnet.").unwrap_or(name);
    let (module, parameter) = name.rsplit_once('.')?;
    if let Some(part) = module.strip_prefix("embedder.embedder.") {
        return Some(format!("{}.{parameter}", part_name(part, 1)?));
    }
    let mut parts = module.strip_prefix("encoder.stages.")?.split('.');
    let (stage, layers, block) = (parts.next()?.parse::<usize>().ok()?, parts.next()?, parts.next()?);
    let inner = match (layers, parts.next()?, parts.next()?, parts.next()) {
        ("layers", "shortcut", "convolution", None) => "downsample.0".to_owned(),
        ("layers", "shortcut", "normalization", None) => "downsample.1".to_owned(),
        ("layers", "layer", number, Some(part)) => {
            let number: usize = number.parse().ok()?;
            part_name(part, number.checked_add(1)?)?
        }
        _ => return None,
    };
    Some(format!("layer{}.{block}.{inner}.{parameter}", stage.checked_add(1)?))
}

/// torchvision's name of the convolution or the normalisation of the layer `number` of a block.
fn part_name(part: &str, number: usize) -> Option<String> {
    match part {
        "convolution" => Some(format!("conv{number}")),
        "normalization" => Some(format!("bn{number}")),
        _ => None,
    }
}

/// The module of the classifier, if it is the only module with tensors in a sequence at `fc`: `fc.1` in
/// `nn.Sequential(nn.Dropout(), nn.Linear(…))`, which computes the same as the linear layer alone. `None` if the
/// sequence begins with a layer that has tensors, since a layer without tensors may follow it and change the logits.
pub(super) fn sequential_classifier<'n>(names: impl Iterator<Item = &'n str>) -> Option<String> {
    let mut modules: Vec<&str> = names.filter_map(|name| Some(name.strip_prefix("fc.")?.rsplit_once('.')?.0)).collect();
    modules.sort_unstable();
    modules.dedup();
    match modules.as_slice() {
        [module] if module.parse().is_ok_and(|index: usize| index > 0) => Some(format!("fc.{module}")),
        _ => None,
    }
}

/// Whether a tensor with torchvision's name `name` is in a module that every residual network has. A tensor there that
/// the network does not use is a sign of another network. A tensor elsewhere belongs to a part beside the network.
pub(super) fn is_within_network(name: &str) -> bool {
    let first = name.split('.').next().unwrap_or_default();
    ["conv1", "bn1", "fc", "resnet", "embedder", "encoder"].contains(&first)
        || first
            .strip_prefix("layer")
            .is_some_and(|stage| !stage.is_empty() && stage.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a tensor counts steps or models and has no part in classification.
pub(super) fn is_counter(name: &str) -> bool {
    matches!(name.rsplit('.').next(), Some("num_batches_tracked" | "n_averaged"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_tells_scheme_and_prefix() {
        for (name, expected) in [
            ("layer1.0.conv1.weight", Some(("", Scheme::Torchvision))),
            ("module.layer1.0.bn1.bias", Some(("module.", Scheme::Torchvision))),
            ("resnet.encoder.stages.0.layers.0.layer.0.convolution.weight", Some(("", Scheme::Transformers))),
            ("a.resnet.encoder.stages.0.layers.0.x", Some(("a.", Scheme::Transformers))),
            ("encoder.stages.0.layers.0.layer.0.convolution.weight", Some(("", Scheme::Transformers))),
            ("convnext.encoder.stages.0.layers.0.dwconv.weight", None),
            ("layer1.1.conv1.weight", None),
            ("player1.0.conv1.weight", None),
        ] {
            assert_eq!(Scheme::of(name), expected, "{name}");
        }
    }

    #[test]
    fn a_classifier_after_dropout_is_found() {
        for (names, expected) in [
            (&["fc.1.weight", "fc.1.bias", "conv1.weight"][..], Some("fc.1")),
            (&["fc.weight", "fc.bias"], None),
            (&["fc.0.weight", "fc.0.bias"], None),
            (&["fc.1.weight", "fc.4.weight"], None),
            (&["fc.linear.weight"], None),
        ] {
            assert_eq!(sequential_classifier(names.iter().copied()).as_deref(), expected, "{names:?}");
        }
    }

    #[test]
    fn names_of_transformers_become_those_of_torchvision() {
        for (name, expected) in [
            ("resnet.embedder.embedder.convolution.weight", "conv1.weight"),
            ("resnet.embedder.embedder.normalization.running_var", "bn1.running_var"),
            ("resnet.encoder.stages.0.layers.1.layer.0.convolution.weight", "layer1.1.conv1.weight"),
            ("resnet.encoder.stages.3.layers.0.layer.2.normalization.bias", "layer4.0.bn3.bias"),
            ("resnet.encoder.stages.1.layers.0.shortcut.convolution.weight", "layer2.0.downsample.0.weight"),
            ("resnet.encoder.stages.1.layers.0.shortcut.normalization.weight", "layer2.0.downsample.1.weight"),
            ("classifier.1.weight", "fc.weight"),
            ("resnet.encoder.stages.0.layers.1.attention.0.convolution.weight", "unchanged"),
            ("resnet.other", "unchanged"),
        ] {
            let expected = if expected == "unchanged" { name } else { expected };
            assert_eq!(Scheme::Transformers.torchvision(name), expected);
            assert_eq!(Scheme::Torchvision.torchvision(name), name);
        }
    }
}

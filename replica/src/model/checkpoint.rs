//! Finds the weights among the dicts of tensors in a checkpoint. Training programs keep them under many keys
//! (`state_dict`, `model`, …) and prefixes (`module.`, `_orig_mod.`, …), beside moving averages, optimizers and other
//! networks. Knows only names.

use super::names::Scheme;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The keys under which training programs keep weights, the most specific first.
const WRAPPERS: [&str; 10] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "backbone",
    "encoder",
    "weights",
];

/// Words in the keys of moving averages of weights.
const AVERAGES: [&str; 5] = ["ema", "swa", "shadow", "averaged", "average"];

/// Most names that a message lists.
const LISTED: usize = 5;

/// Most bytes of a name that a message lists. The place of a network in a hostile file may have thousands.
const LISTED_BYTES: usize = 200;

/// Most networks of one file. Each gets a place, so a million prefixes in one deep dict would take gigabytes.
const MAX_NETWORKS: usize = 64;

/// A dict of a file that has tensors.
pub(super) struct Table<'a, C> {
    /// The keys that lead to the dict, joined by dots; empty for the file's only dict.
    pub(super) path: String,
    /// The names of its tensors.
    pub(super) names: Vec<&'a str>,
    /// How the reader of the file finds the dict.
    pub(super) contents: C,
}

/// The chosen weights.
#[derive(Debug, PartialEq)]
pub(super) struct Chosen<C> {
    pub(super) contents: C,
    /// The beginning of the names that belong to the network.
    pub(super) prefix: String,
    /// The scheme of the names after the prefix.
    pub(super) scheme: Scheme,
    /// The keys and the prefix, joined by dots; empty if there are none.
    pub(super) place: String,
    /// The places of other weights in the file, which are not used.
    pub(super) others: Vec<String>,
    /// The tensors of the same dict that do not have the prefix.
    pub(super) unused: Vec<String>,
}

impl<C> Chosen<C> {
    /// The same choice without the place of the dict in memory.
    pub(super) fn without_contents(self) -> Chosen<()> {
        let Self { prefix, scheme, place, others, unused, .. } = self;
        Chosen { contents: (), prefix, scheme, place, others, unused }
    }
}

/// Why no weights can be chosen.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Error {
    #[error("the file has no tensors with names; write the weights with torch.save(model.state_dict(), 'weights.pth')")]
    NoTensors,
    #[error(
        "no tensor's name begins with layer1.0. (torchvision, timm) or encoder.stages.0.layers.0. (transformers), so \
         this is no residual network; its tensors are called {0}; for other networks, see \"Your own model\" in the \
         README"
    )]
    NoNetwork(String),
    #[error("the file has several networks, at {0}; name one with --weights-key")]
    Several(String),
    #[error(
        "the file has more than {MAX_NETWORKS} networks; write the weights of one with torch.save(model.state_dict(), \
         'weights.pth')"
    )]
    TooMany,
    #[error("--weights-key {key}: the file has no network there; it has networks at {places}")]
    NoKey { key: String, places: String },
}

/// Chooses the network of the file.
///
/// With `key`, it is the network whose place is `key` or begins with `key` and a dot. Otherwise moving averages (EMA)
/// are used only if there is nothing else, and of several networks the one whose key is the first of [`WRAPPERS`].
///
/// # Errors
/// If there is no such network, several, or more than [`MAX_NETWORKS`] in the file.
pub(super) fn choose<C: Copy>(tables: &[Table<'_, C>], key: Option<&str>) -> Result<Chosen<C>, Error> {
    let candidates = candidates(tables)?;
    if candidates.is_empty() {
        let largest = tables.iter().max_by_key(|table| table.names.len()).filter(|table| !table.names.is_empty());
        return Err(largest.map_or(Error::NoTensors, |table| Error::NoNetwork(listed(table.names.iter().copied()))));
    }
    let places = || listed(candidates.iter().map(|candidate| display(&candidate.place)));
    let mut remaining: Vec<_> = candidates.iter().collect();
    if let Some(key) = key {
        let key = key.trim_end_matches('.');
        let is_within =
            |place: &str| place.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        remaining.retain(|candidate| is_within(&candidate.place));
        if remaining.is_empty() {
            return Err(Error::NoKey { key: key.to_owned(), places: places() });
        }
    }
    if remaining.iter().any(|candidate| !is_average(&candidate.place)) {
        remaining.retain(|candidate| !is_average(&candidate.place));
    }
    let best = remaining.iter().map(|candidate| rank(&candidate.place)).min();
    remaining.retain(|candidate| Some(rank(&candidate.place)) == best);
    let &[chosen] = remaining.as_slice() else { return Err(Error::Several(places())) };
    let others = candidates.iter().filter(|other| other.place != chosen.place);
    let unused = chosen.table.names.iter().filter(|name| !name.starts_with(&chosen.prefix));
    Ok(Chosen {
        contents: chosen.table.contents,
        prefix: chosen.prefix.clone(),
        scheme: chosen.scheme,
        place: chosen.place.clone(),
        others: others.map(|other| display(&other.place).to_owned()).collect(),
        unused: unused.map(|name| (*name).to_owned()).collect(),
    })
}

/// Whether weights are often kept under `key`.
pub(super) fn is_wrapper(key: &str) -> bool {
    WRAPPERS.contains(&key) || is_average(key)
}

/// The first names of a list, of which long ones are cut, and how many more there are.
pub(super) fn listed<'n>(mut names: impl Iterator<Item = &'n str>) -> String {
    let first = names.by_ref().take(LISTED).map(shortened).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// A name with at most [`LISTED_BYTES`], and dots for the rest.
fn shortened(name: &str) -> Cow<'_, str> {
    match name.len() > LISTED_BYTES {
        true => Cow::Owned(format!("{}…", &name[..name.floor_char_boundary(LISTED_BYTES)])),
        false => Cow::Borrowed(name),
    }
}

/// A network in a table: the tensors whose names begin with `prefix`.
struct Candidate<'t, 'a, C> {
    table: &'t Table<'a, C>,
    prefix: String,
    scheme: Scheme,
    place: String,
}

/// The networks of all tables, one for each prefix in a table.
///
/// # Errors
/// If there are more than [`MAX_NETWORKS`].
fn candidates<'t, 'a, C>(tables: &'t [Table<'a, C>]) -> Result<Vec<Candidate<'t, 'a, C>>, Error> {
    let mut candidates = Vec::new();
    for table in tables {
        let mut prefixes: BTreeMap<&str, Scheme> = BTreeMap::new();
        for (prefix, scheme) in table.names.iter().filter_map(|name| Scheme::of(name)) {
            prefixes.insert(prefix, scheme);
            if candidates.len() + prefixes.len() > MAX_NETWORKS {
                return Err(Error::TooMany);
            }
        }
        candidates.extend(prefixes.into_iter().map(|(prefix, scheme)| {
            let parts = [table.path.as_str(), prefix.trim_end_matches('.')];
            let place = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
            Candidate { table, prefix: prefix.to_owned(), scheme, place }
        }));
    }
    Ok(candidates)
}

/// Whether a place is that of a moving average: `model_ema`, `ema.module`, `state_dict.ema_model`.
fn is_average(place: &str) -> bool {
    place.split(['.', '_', '-']).any(|word| AVERAGES.contains(&word.to_ascii_lowercase().as_str()))
}

/// The order of preference among places: the file's only dict, then [`WRAPPERS`], then others.
fn rank(place: &str) -> usize {
    let first = place.split('.').next().unwrap_or_default();
    match first {
        "" => 0,
        key => 1 + WRAPPERS.iter().position(|wrapper| *wrapper == key).unwrap_or(WRAPPERS.len()),
    }
}

/// A place in a message.
fn display(place: &str) -> &str {
    if place.is_empty() { "the top level" } else { place }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chosen place among tables of the given paths, each with tensors of the given prefixes.
    fn place(tables: &[(&str, &[&str])], key: Option<&str>) -> Result<String, Error> {
        let names: Vec<Vec<String>> = tables
            .iter()
            .map(|(_, prefixes)| prefixes.iter().map(|prefix| format!("{prefix}layer1.0.conv1.weight")).collect())
            .collect();
        let tables: Vec<Table<'_, ()>> = tables
            .iter()
            .zip(&names)
            .map(|((path, _), names)| Table {
                path: (*path).to_owned(),
                names: names.iter().map(String::as_str).collect(),
                contents: (),
            })
            .collect();
        choose(&tables, key).map(|chosen| chosen.place)
    }

    #[test]
    fn weights_are_found_under_the_keys_and_prefixes_of_training_programs() {
        for (tables, expected) in [
            (&[("", &[""][..])][..], ""),
            (&[("", &["module."])], "module"),
            (&[("", &["_orig_mod.module."])], "_orig_mod.module"),
            (&[("", &[]), ("state_dict", &["model."]), ("optimizer", &[])], "state_dict.model"),
            (&[("model", &[""]), ("model_ema", &["module."])], "model"),
            (&[("state_dict_ema", &[""]), ("state_dict", &[""])], "state_dict"),
            (&[("state_dict", &["net.", "ema_net."])], "state_dict.net"),
            (&[("ema.module", &[""])], "ema.module"),
            (&[("ema.shadow", &[""]), ("epoch", &[])], "ema.shadow"),
            (&[("model", &[""]), ("best", &[""])], "model"),
            (&[("anything", &["deep.er."])], "anything.deep.er"),
        ] {
            assert_eq!(place(tables, None).as_deref(), Ok(expected), "{tables:?}");
        }
    }

    #[test]
    fn a_key_names_the_weights_and_several_networks_are_refused_with_their_places() {
        let averaged = &[("model", &[""][..]), ("model_ema", &["module."])][..];
        let students = &[("state_dict", &["student.", "teacher."][..])][..];
        for (tables, key, expected) in [
            (averaged, "model_ema", "model_ema.module"),
            (averaged, "model_ema.module", "model_ema.module"),
            (students, "state_dict.teacher", "state_dict.teacher"),
        ] {
            assert_eq!(place(tables, Some(key)).as_deref(), Ok(expected), "{key}");
        }
        let several = Error::Several("state_dict.student, state_dict.teacher".into());
        assert_eq!(place(students, None), Err(several));
        let missing = Error::NoKey { key: "ema".into(), places: "model, model_ema.module".into() };
        assert_eq!(place(averaged, Some("ema")), Err(missing));
    }

    #[test]
    fn many_networks_are_refused_and_long_places_are_cut_in_messages() {
        let names: Vec<String> = (0..=MAX_NETWORKS).map(|index| format!("{index}.layer1.0.")).collect();
        let table = |path: &str, count: usize| Table {
            path: path.to_owned(),
            names: names[..count].iter().map(String::as_str).collect(),
            contents: (),
        };
        let refused = choose(&[table(&"é".repeat(1000), MAX_NETWORKS)], None).expect_err("several").to_string();
        assert!(refused.contains("é…, ") && refused.len() < 1500, "{refused}");
        let key = Some("a.7");
        assert_eq!(choose(&[table("a", MAX_NETWORKS)], key).map(|chosen| chosen.place), Ok("a.7".into()));
        assert_eq!(choose(&[table("a", MAX_NETWORKS), table("b", 1)], key), Err(Error::TooMany));
        assert_eq!(choose(&[table("a", MAX_NETWORKS + 1)], None), Err(Error::TooMany));
    }

    #[test]
    fn a_file_without_a_residual_network_is_refused_with_some_of_its_names() {
        let table = |names: Vec<&'static str>| [Table { path: String::new(), names, contents: () }];
        assert_eq!(choose(&table(vec![]), None), Err(Error::NoTensors));
        let names = vec!["features.0.weight", "a", "b", "c", "d", "e", "f"];
        let refused = choose(&table(names), None).expect_err("no network").to_string();
        assert!(refused.contains("features.0.weight, a, b, c, d and 2 more"), "{refused}");
    }
}

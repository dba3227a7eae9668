//! Makes flags of the file of `--config`, which has a section for each target.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use toml::{Table, Value};

/// The longest file that is read, in bytes. A longer file was named by mistake.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the text of a file, at most [`MAX_BYTES`].
pub(super) fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    ensure!(text.len() as u64 <= MAX_BYTES, "the file has more than {MAX_BYTES} bytes; give a smaller TOML file");
    Ok(text)
}

/// The name and the flags of each section, sorted by name. `max = 6` becomes `--max=6`, `dry-run = true` becomes
/// `--dry-run`, and a list repeats its flag.
pub(super) fn sections(text: &str) -> Result<Vec<(String, Vec<String>)>> {
    let table: Table = text.parse()?;
    ensure!(!table.is_empty(), "there is no section; write one for each target, such as [replica] and target = \"…\"");
    let sections = table.into_iter().map(|(name, section)| {
        let Value::Table(section) = section else {
            bail!("{name} stands before the first section; put it into a section, or on the command line");
        };
        let mut flags = Vec::new();
        for (key, value) in section {
            add(&mut flags, &key, value).with_context(|| format!("section [{name}]"))?;
        }
        Ok((name, flags))
    });
    sections.collect()
}

fn add(flags: &mut Vec<String>, key: &str, value: Value) -> Result<()> {
    match value {
        Value::String(text) => flags.push(format!("--{key}={text}")),
        Value::Integer(number) => flags.push(format!("--{key}={number}")),
        Value::Float(number) => flags.push(format!("--{key}={number}")),
        Value::Boolean(true) => flags.push(format!("--{key}")),
        Value::Boolean(false) => {}
        Value::Array(values) => {
            for value in values {
                ensure!(!value.is_array(), "{key} is a list of lists; write one list of values");
                add(flags, key, value)?;
            }
        }
        Value::Datetime(_) | Value::Table(_) => {
            bail!("{key} must be a text, a number, true, false, or a list of these")
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_flags() {
        let text = "[replica]\nmax = 6\nobjective = \"500ms\"\ndispatcher = [\"a:1\", \"b:2\"]\n\
                    [dispatcher]\ndry-run = true\nquantile = 0.99\nexit = false\n";
        let found = sections(text).expect("good");
        let found: Vec<_> = found.iter().map(|(name, flags)| (name.as_str(), flags.join(" "))).collect();
        let replica = "--dispatcher=a:1 --dispatcher=b:2 --max=6 --objective=500ms".to_owned();
        assert_eq!(found, [("dispatcher", "--dry-run --quantile=0.99".to_owned()), ("replica", replica)]);
    }

    #[test]
    fn an_error_names_the_invalid_key_or_line() {
        for (text, word) in [
            ("", "no section"),
            ("max = 6", "max stands before"),
            ("[a]\nmax = ", "line 2, column 7"),
            ("[a]\n[a]\n", "duplicate key"),
            ("[a]\nmax = { b = 1 }", "max must be"),
            ("[a]\nmax = 1979-05-27", "max must be"),
            ("[a]\nmax = [[1]]", "list of lists"),
        ] {
            let error = format!("{:#}", sections(text).expect_err("refused"));
            assert!(error.contains(word), "{text:?}: {error}");
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let long = folder.path().join("long");
        std::fs::write(&long, " ".repeat(MAX_BYTES as usize + 1)).expect("written");
        assert!(read(&long).expect_err("too long").to_string().contains("1048576 bytes"));
        assert!(read(folder.path()).is_err(), "a folder is no file");
    }
}

//! Reads HorizontalPodAutoscalers from the API server and from files, as laws of a backtest.

use crate::laws::LawChoice;
use crate::laws::hpa::Hpa;
use anyhow::{Context, Result, anyhow, ensure};
use kubernetes::client::Client;
use kubernetes::name::ObjectName;
use kubernetes::{autoscaler, client};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest file that is read, in bytes. An API server stores no larger object.
const MAX_BYTES: u64 = 1 << 20;

/// The law of the HPA `name` of the cluster of the service account or of the kubeconfig.
///
/// # Errors
/// If there is no cluster or no such HPA, the API server refuses the request or does not answer, or the HPA cannot be
/// replayed.
pub async fn from_cluster(name: &ObjectName) -> Result<LawChoice> {
    let connect = || "there is no cluster to read it from; set KUBECONFIG, or give the object with --hpa-file";
    let client = client::connect().await.with_context(connect)?;
    read(&client, name).await
}

/// The law of the HPA `name` of the cluster of `client`.
///
/// # Errors
/// As [`from_cluster`].
pub async fn read(client: &Client, name: &ObjectName) -> Result<LawChoice> {
    let object = autoscaler::read(client, name).await.map_err(|error| {
        let advice = match error.is(403) {
            true => format!("let this user get horizontalpodautoscalers in the namespace {}", name.namespace),
            false => format!("kubectl get hpa --namespace {} lists those that exist", name.namespace),
        };
        anyhow!("{error}; {advice}")
    })?;
    Ok(LawChoice::Hpa(format!("hpa {name}"), Hpa::of(&object)?))
}

/// The law of the HPA in a YAML or JSON file.
///
/// # Errors
/// If the file cannot be read, is neither YAML nor JSON, or has no HPA that can be replayed.
pub fn from_file(path: &Path) -> Result<LawChoice> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    ensure!(text.len() as u64 <= MAX_BYTES, "the file has more than {MAX_BYTES} bytes; give the file of one object");
    let object: Value = serde_saphyr::from_str(&text).context("the file is not one object as YAML or JSON")?;
    Ok(LawChoice::Hpa(format!("hpa {}", path.display()), Hpa::of(&object)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = "apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: replica}
spec: {maxReplicas: 3, targetCPUUtilizationPercentage: 70}
";

    #[test]
    fn a_file_has_one_object_as_yaml_or_json() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let json = r#"{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","spec":{"maxReplicas":3}}"#;
        for (text, targets) in [(SHIPPED, "70 %"), (json, "80 %")] {
            let path = file("hpa", text);
            let law = from_file(&path).expect("it can be replayed");
            assert_eq!((law.to_string(), law.bounds()), (format!("hpa {}", path.display()), Some((1, 3))));
            let LawChoice::Hpa(_, hpa) = law else { panic!("{law} is no HPA") };
            assert!(hpa.parameters.to_string().starts_with(targets));
        }
        // Each level has nine references to the level below, so the whole has 9⁹ values.
        let aliases = (1..9).fold("l0: &l0 [x]\n".to_owned(), |text, level| {
            let below = vec![format!("*l{}", level - 1); 9].join(",");
            format!("{text}l{level}: &l{level} [{below}]\n")
        });
        for (text, word) in [
            ("", "not a HorizontalPodAutoscaler"),
            ("a: [", "not one object as YAML or JSON"),
            (&format!("{SHIPPED}---\n{SHIPPED}"), "not one object as YAML or JSON"),
            ("kind: Deployment\napiVersion: apps/v1\n", "a Deployment of apps/v1"),
            (&" ".repeat(MAX_BYTES as usize + 1), "1048576 bytes"),
            (&"[".repeat(100_000), "not one object as YAML or JSON"),
            (&aliases, "not one object as YAML or JSON"),
        ] {
            let error = format!("{:#}", from_file(&file("bad", text)).expect_err("refused"));
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(from_file(&folder.path().join("gone")).is_err());
    }
}

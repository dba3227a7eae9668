//! The manifests, as kubectl makes them of the kustomizations: valid for every version of Kubernetes, within the strictest
//! pod security standard, and in agreement with themselves.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first version whose schemas they must fit.
const FIRST_MINOR: u32 = 28;

/// Past the capturing of what passing tests print: nothing is skipped silently.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error is open");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every folder with a kustomization.
fn kustomizations() -> Vec<PathBuf> {
    let k8s = root().join("k8s");
    let overlays = std::fs::read_dir(k8s.join("overlays")).expect("there are overlays").flatten();
    let folders = ["base", "monitoring", "namespace"].map(|name| k8s.join(name));
    let all: Vec<PathBuf> = folders.into_iter().chain(overlays.map(|overlay| overlay.path())).collect();
    assert!(all.iter().all(|folder| folder.join("kustomization.yaml").exists()), "{all:?}");
    all
}

/// What kubectl makes of a folder; nothing where there is no kubectl.
fn build(folder: &Path) -> Option<String> {
    let output = match Command::new("kubectl").arg("kustomize").arg(folder).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            say("skipped: there is no kubectl (Debian: apt-get install kubernetes-client)");
            return None;
        }
        output => output.expect("kubectl runs"),
    };
    assert!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("UTF-8"))
}

fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).expect("kubectl writes YAML")
}

/// All objects of all folders, each with where it is; nothing where there is no kubectl.
fn everything() -> Option<Vec<(String, Value)>> {
    let mut all = Vec::new();
    for folder in kustomizations() {
        for object in objects(&build(&folder)?) {
            let (kind, name) = (object["kind"].as_str(), object["metadata"]["name"].as_str());
            let place = folder.strip_prefix(root()).expect("below the root").display().to_string();
            all.push((format!("{place}: {} {}", kind.unwrap_or("?"), name.unwrap_or("?")), object));
        }
    }
    Some(all)
}

fn of_kind<'a>(all: &'a [(String, Value)], kind: &str) -> Vec<&'a (String, Value)> {
    let found: Vec<_> = all.iter().filter(|(_, object)| object["kind"] == kind).collect();
    assert!(!found.is_empty(), "there is no {kind}");
    found
}

#[test]
fn they_fit_the_schemas_of_every_version() {
    let installed = root().join("target/tools/kubernetes-validate/bin");
    if !installed.join("kubernetes-validate").exists() {
        return say("skipped: kubernetes-validate is not there; to have it: python3 -m venv \
                    target/tools/kubernetes-validate && target/tools/kubernetes-validate/bin/pip install kubernetes-validate");
    }
    let newest = "import kubernetes_validate; print(kubernetes_validate.latest_version())";
    let newest = Command::new(installed.join("python")).args(["-c", newest]).output().expect("python runs");
    let newest = String::from_utf8(newest.stdout).expect("UTF-8");
    let newest: u32 = newest.split('.').nth(1).and_then(|minor| minor.parse().ok()).expect("a version");
    assert!(newest > FIRST_MINOR, "{newest}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut files = Vec::new();
    for kustomization in kustomizations() {
        let Some(text) = build(&kustomization) else { return };
        let file = folder.path().join(format!("{}.yaml", files.len()));
        std::fs::write(&file, text).expect("written");
        files.push(file);
    }
    let validate = |version: u32, files: &[PathBuf]| {
        let mut command = Command::new(installed.join("kubernetes-validate"));
        command.args(["--strict", "--quiet", "-k", &format!("1.{version}")]).args(files).output().expect("it runs")
    };
    for version in FIRST_MINOR..=newest {
        let output = validate(version, &files);
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "1.{version}:\n{}", String::from_utf8_lossy(&said));
    }
    // It would have found something.
    let wrong = folder.path().join("wrong.yaml");
    std::fs::write(&wrong, "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {prots: []}\n").expect("written");
    assert!(!validate(newest, &[wrong]).status.success());
}

/// What a pod's specification has that the restricted pod security standard forbids, or lacks that it demands
/// (kubernetes.io/docs/concepts/security/pod-security-standards), and that its root file system may be written to.
fn offences(spec: &Value) -> Vec<String> {
    let mut offences = Vec::new();
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[shared] == true {
            offences.push(shared.to_owned());
        }
    }
    const VOLUMES: [&str; 8] =
        ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().expect("a volume").keys().filter(|key| *key != "name");
        offences.extend(kinds.filter(|kind| !VOLUMES.contains(&kind.as_str())).map(|kind| format!("volume {kind}")));
    }
    let pod = &spec["securityContext"];
    let containers =
        ["initContainers", "containers"].into_iter().flat_map(|list| spec[list].as_array().into_iter().flatten());
    for container in containers {
        let own = &container["securityContext"];
        let either = |field: &str| if own[field].is_null() { pod[field].clone() } else { own[field].clone() };
        let mut offend = |what: &str| offences.push(format!("{}: {what}", container["name"]));
        if either("runAsNonRoot") != true {
            offend("runAsNonRoot");
        }
        if either("runAsUser").as_u64().is_none_or(|user| user == 0) {
            offend("runAsUser");
        }
        let seccomp = either("seccompProfile");
        if seccomp["type"] != "RuntimeDefault" && seccomp["type"] != "Localhost" {
            offend("seccompProfile");
        }
        if own["allowPrivilegeEscalation"] != false {
            offend("allowPrivilegeEscalation");
        }
        if own["privileged"] == true {
            offend("privileged");
        }
        if own["capabilities"]["drop"] != json!(["ALL"]) || !own["capabilities"]["add"].is_null() {
            offend("capabilities");
        }
        if own["readOnlyRootFilesystem"] != true {
            offend("readOnlyRootFilesystem");
        }
        let ports = container["ports"].as_array().into_iter().flatten();
        if ports.into_iter().any(|port| !port["hostPort"].is_null()) {
            offend("hostPort");
        }
    }
    offences
}

#[test]
fn every_pod_is_restricted() {
    let Some(all) = everything() else { return };
    for (place, object) in of_kind(&all, "Deployment") {
        assert_eq!(offences(&object["spec"]["template"]["spec"]), Vec::<String>::new(), "{place}");
    }
    let namespaces = of_kind(&all, "Namespace");
    for (place, object) in namespaces {
        assert_eq!(object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted", "{place}");
    }
}

#[test]
fn offences_are_found() {
    let good = || {
        json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}}]})
    };
    assert_eq!(offences(&good()), Vec::<String>::new());
    for (pointer, value, expected) in [
        ("/securityContext/runAsNonRoot", json!(false), "runAsNonRoot"),
        ("/securityContext/runAsUser", json!(0), "runAsUser"),
        ("/securityContext/seccompProfile/type", json!("Unconfined"), "seccompProfile"),
        ("/containers/0/securityContext/allowPrivilegeEscalation", json!(null), "allowPrivilegeEscalation"),
        ("/containers/0/securityContext/capabilities/drop", json!(["NET_RAW"]), "capabilities"),
        ("/containers/0/securityContext/readOnlyRootFilesystem", json!(false), "readOnlyRootFilesystem"),
    ] {
        let mut spec = good();
        *spec.pointer_mut(pointer).expect("it is there") = value;
        assert!(offences(&spec)[..].iter().any(|offence| offence.contains(expected)), "{expected}");
    }
    for (field, value, expected) in [
        ("hostNetwork", json!(true), "hostNetwork"),
        ("volumes", json!([{"name": "a", "hostPath": {"path": "/"}}]), "volume hostPath"),
    ] {
        let mut spec = good();
        spec[field] = value;
        assert_eq!(offences(&spec), [expected]);
    }
}

#[test]
fn a_replica_has_one_core_of_its_own() {
    let Some(all) = everything() else { return };
    for (place, object) in of_kind(&all, "Deployment") {
        if object["metadata"]["name"] != "replica" {
            continue;
        }
        let resources = &object["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert_eq!(resources["requests"], resources["limits"], "{place}");
        assert_eq!(resources["requests"]["cpu"], "1", "{place}");
        assert!(object["spec"]["replicas"].is_null(), "{place}: applying it again would undo what the scaler did");
    }
}

/// Seconds of a flag such as `--grace=15s`.
fn seconds(container: &Value, flag: &str) -> Option<u64> {
    let arguments = container["args"].as_array()?.iter().filter_map(Value::as_str);
    arguments.filter_map(|argument| argument.strip_prefix(flag)?.strip_suffix('s')?.parse().ok()).next()
}

#[test]
fn nobody_is_killed_while_draining() {
    let Some(all) = everything() else { return };
    for (place, object) in of_kind(&all, "Deployment") {
        let spec = &object["spec"]["template"]["spec"];
        let container = &spec["containers"][0];
        let (Some(delay), Some(grace)) = (seconds(container, "--drain-delay="), seconds(container, "--grace=")) else {
            let component = object["metadata"]["name"].as_str();
            assert!(!matches!(component, Some("dispatcher" | "replica")), "{place} does not drain");
            continue;
        };
        let patience = spec["terminationGracePeriodSeconds"].as_u64().expect("it is given");
        assert!(patience > delay + grace, "{place}: {patience} s for {delay} s and {grace} s");
        assert_eq!(object["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0, "{place}");
    }
}

/// Whether a selector finds pods of one of the Deployments beside it.
fn finds(all: &[(String, Value)], place: &str, selector: &Value) -> bool {
    let folder = place.split(':').next();
    let selector = selector.as_object().expect("labels");
    all.iter().filter(|(other, object)| other.split(':').next() == folder && object["kind"] == "Deployment").any(
        |(_, object)| {
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            !selector.is_empty() && selector.iter().all(|(key, value)| &labels[key] == value)
        },
    )
}

#[test]
fn selectors_find_pods() {
    let Some(all) = everything() else { return };
    for (kind, pointer) in [
        ("Service", "/spec/selector"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels"),
        ("Deployment", "/spec/selector/matchLabels"),
    ] {
        for (place, object) in of_kind(&all, kind) {
            assert!(finds(&all, place, object.pointer(pointer).expect("a selector")), "{place}");
        }
    }
}

#[test]
fn replicas_are_reached_by_dispatchers_and_prometheus_only() {
    let Some(all) = everything() else { return };
    let policies = of_kind(&all, "NetworkPolicy");
    let of_replicas: Vec<_> = policies.iter().filter(|(_, object)| object["metadata"]["name"] == "replica").collect();
    assert!(!of_replicas.is_empty());
    for (place, object) in of_replicas {
        let [rule] = &object["spec"]["ingress"].as_array().expect("rules")[..] else { panic!("{place}") };
        let from = rule["from"].as_array().expect("peers").iter().map(|peer| {
            let labels = &peer["podSelector"]["matchLabels"];
            labels["app.kubernetes.io/component"].as_str().expect("a component")
        });
        assert_eq!(from.collect::<BTreeSet<_>>(), BTreeSet::from(["dispatcher", "prometheus"]), "{place}");
        assert!(object["spec"]["egress"].is_null(), "{place}: a replica asks nobody for anything");
        assert_eq!(object["spec"]["policyTypes"], json!(["Ingress", "Egress"]), "{place}");
    }
}

#[test]
fn everything_carries_the_recommended_labels() {
    let Some(all) = everything() else { return };
    for (place, object) in all.iter().filter(|(_, object)| object["kind"] != "Namespace") {
        let labels = &object["metadata"]["labels"];
        for label in ["name", "component", "part-of"] {
            assert!(labels[format!("app.kubernetes.io/{label}")].is_string(), "{place} has no {label}: {labels}");
        }
        assert_eq!(labels["app.kubernetes.io/name"], "roundhouse", "{place}");
    }
}

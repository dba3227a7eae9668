//! Environment variables, which all sections of a file share. Each test starts the real program without a cluster: it ends
//! with an error once it has accepted its settings.

use std::path::Path;
use std::process::Command;

const SECTIONS: &str = r#"
[replica]
target = "deployment:shop/replica"

[dispatcher]
target = "deployment:shop/dispatcher"
role = "dispatchers"
policy = "rate:500"

[ordered]
target = "statefulset:store/replica"
headroom = "none"
"#;

/// The last words of the scaler with a file of `sections` and `variables`.
fn last_words(sections: &str, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("scaler.toml");
    std::fs::write(&file, sections).expect("the folder is writable");
    let mut scaler = Command::new(Path::new(env!("CARGO_BIN_EXE_scaler")));
    scaler.arg("--config").arg(file).arg("--listen=127.0.0.1:0").envs(variables.iter().copied());
    scaler.env("KUBECONFIG", folder.path().join("none")).env_remove("KUBERNETES_SERVICE_HOST");
    let output = scaler.output().expect("the program starts");
    assert!(!output.status.success());
    String::from_utf8(output.stderr).expect("the log is UTF-8")
}

#[test]
fn shared_variables_are_left_out_of_sections_that_they_cannot_be_meant_for() {
    for variable in
        [("ROUNDHOUSE_HEADROOM", "auto"), ("ROUNDHOUSE_HEADROOM", "2"), ("ROUNDHOUSE_DELETION_COST", "true")]
    {
        let log = last_words(SECTIONS, &[variable]);
        assert!(log.contains("find the cluster"), "{variable:?}: {log}");
    }
}

#[test]
fn a_variable_that_turns_a_setting_off_conflicts_with_no_other() {
    for variables in [
        [("ROUNDHOUSE_ADVISE", "true"), ("ROUNDHOUSE_DRY_RUN", "false")],
        [("ROUNDHOUSE_ADVISE", "true"), ("ROUNDHOUSE_HEADROOM", "none")],
        [("ROUNDHOUSE_ADVISE", "true"), ("ROUNDHOUSE_DELETION_COST", "false")],
        [("ROUNDHOUSE_ADVISE", "false"), ("ROUNDHOUSE_DRY_RUN", "true")],
    ] {
        let log = last_words(SECTIONS, &variables);
        assert!(log.contains("find the cluster"), "{variables:?}: {log}");
    }
}

#[test]
fn a_flag_of_a_section_is_checked() {
    for (sections, word) in [
        (SECTIONS.replace("role = ", "headroom = \"auto\"\nrole = "), "--headroom auto needs --policy slo"),
        (SECTIONS.replace("headroom = ", "deletion-cost = true\nheadroom = "), "--deletion-cost needs a target"),
    ] {
        let log = last_words(&sections, &[]);
        assert!(log.contains(word), "{log}");
    }
}

//! The thresholds of a run as test cases in JUnit's XML, which CI systems show beside the tests of a build. Does no I/O.

use super::RunReport;
use quick_xml::events::{BytesDecl, Event};
use quick_xml::writer::Writer;
use std::io;

/// A test case: its class, its name, and the message of its failure if it has failed.
struct TestCase {
    class: &'static str,
    name: String,
    failure: Option<String>,
}

/// The document: a case for each threshold, one for the send times, and one for the end of the run.
pub fn document(report: &RunReport) -> String {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    write(&mut writer, report).expect("memory can be written");
    String::from_utf8(writer.into_inner()).expect("only text was written")
}

fn write(writer: &mut Writer<Vec<u8>>, report: &RunReport) -> io::Result<()> {
    let cases = cases(report);
    let (tests, failures) = (cases.len(), cases.iter().filter(|case| case.failure.is_some()).count());
    let setup = &report.setup;
    let totals = [
        ("name", clean(setup.name.as_deref().unwrap_or(&setup.load))),
        ("tests", tests.to_string()),
        ("failures", failures.to_string()),
        ("errors", "0".into()),
        ("skipped", "0".into()),
        ("time", format!("{:.3}", setup.length_seconds)),
        ("timestamp", setup.started_at.trim_end_matches('Z').into()),
    ];
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer.create_element("testsuites").write_inner_content(|writer| {
        let suite = writer.create_element("testsuite").with_attributes(attributes(&totals));
        suite.write_inner_content(|writer| {
            writer.create_element("properties").write_inner_content(|writer| {
                for property in properties(report) {
                    writer.create_element("property").with_attributes(attributes(&property)).write_empty()?;
                }
                Ok(())
            })?;
            for case in &cases {
                write_case(writer, case, setup.length_seconds)?;
            }
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

fn write_case(writer: &mut Writer<Vec<u8>>, case: &TestCase, seconds: f64) -> io::Result<()> {
    let fields = [("classname", case.class.to_owned()), ("name", clean(&case.name)), ("time", format!("{seconds:.3}"))];
    let element = writer.create_element("testcase").with_attributes(attributes(&fields));
    match &case.failure {
        None => element.write_empty()?,
        Some(failure) => element.write_inner_content(|writer| {
            let fields = [("type", case.class.to_owned()), ("message", clean(failure))];
            writer.create_element("failure").with_attributes(attributes(&fields)).write_empty()?;
            Ok(())
        })?,
    };
    Ok(())
}

fn cases(report: &RunReport) -> Vec<TestCase> {
    let thresholds = report.thresholds.iter().map(|result| TestCase {
        class: "loadgen.threshold",
        name: result.condition.clone(),
        failure: (!result.held).then(|| result.to_string()),
    });
    let delays = &report.send_delays;
    let late = || {
        format!(
            "{} of {} requests were sent late by loadgen, so the figures say nothing about the server",
            delays.late_sends, report.summary.offered
        )
    };
    let partial = || format!("the run was stopped after {:.1} s", report.setup.length_seconds);
    let of_run = [
        ("requests are sent on time", delays.is_bottleneck.then(late)),
        ("the run is complete", (!report.is_complete).then(partial)),
    ];
    let of_run = of_run.map(|(name, failure)| TestCase { class: "loadgen.run", name: name.to_owned(), failure });
    thresholds.chain(of_run).collect()
}

/// The name and the value of each property: the settings and the main figures of the run.
fn properties(report: &RunReport) -> Vec<[(&'static str, String); 2]> {
    let (setup, summary) = (&report.setup, &report.summary);
    let mut properties = vec![
        ("url", clean(&setup.url)),
        ("load", clean(&setup.load)),
        ("seed", setup.seed.to_string()),
        ("objective_ms", setup.objective_ms.to_string()),
        ("offered", summary.offered.to_string()),
        ("answered", summary.answered.to_string()),
        ("failed", summary.failed.to_string()),
        ("attainment", summary.attainment.to_string()),
        ("goodput_per_second", summary.goodput_per_second.to_string()),
        ("throughput_per_second", summary.throughput_per_second.to_string()),
    ];
    let offered = &summary.offered_latency_ms;
    // A percentile among the failed requests has no time, and no property.
    let percentiles =
        [("p50_of_offered_ms", offered.p50), ("p95_of_offered_ms", offered.p95), ("p99_of_offered_ms", offered.p99)];
    properties.extend(percentiles.into_iter().filter_map(|(name, value)| Some((name, value?.to_string()))));
    if let Some(usage) = &summary.usage {
        properties.push(("replica_seconds", usage.replica_seconds.to_string()));
    }
    properties.into_iter().map(|(name, value)| [("name", name.to_owned()), ("value", value)]).collect()
}

fn attributes<'a>(fields: &'a [(&'static str, String)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    fields.iter().map(|(name, value)| (*name, value.as_str()))
}

/// The text without the characters that XML cannot contain, not even escaped.
fn clean(text: &str) -> String {
    let is_allowed = |char: &char| matches!(char, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
    text.chars().filter(is_allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::ConditionResult;
    use crate::report::tests::report;
    use crate::summary::RunSummary;
    use quick_xml::Reader;

    /// The elements of an XML document, each with its attributes, in order.
    fn elements(document: &str) -> Vec<(String, Vec<(String, String)>)> {
        let mut reader = Reader::from_str(document);
        let mut elements = Vec::new();
        loop {
            match reader.read_event().expect("the document is XML") {
                Event::Start(element) | Event::Empty(element) => {
                    let attributes = element.attributes().map(|attribute| {
                        let attribute = attribute.expect("an attribute");
                        let value = quick_xml::escape::unescape(&attribute.value).expect("escaped").into_owned();
                        (attribute.key.as_ref().to_owned(), value)
                    });
                    elements.push((element.name().as_ref().to_owned(), attributes.collect()));
                }
                Event::Eof => return elements,
                _ => {}
            }
        }
    }

    #[test]
    fn every_threshold_is_a_case_and_breached_ones_have_failed() {
        let mut report = report(RunSummary { offered: 40, ..RunSummary::default() });
        report.setup.name = Some("a <&> \"b\"\u{1b}\u{ffff}é".into());
        let threshold = |text: &str, held| ConditionResult { condition: text.into(), value: Some(612.0), held };
        report.thresholds = vec![threshold("p95<500ms", false), threshold("p50<1s", true)];
        report.is_complete = false;
        let found = elements(&document(&report));
        let all = |name: &str| found.iter().filter(|(found, _)| found == name).collect::<Vec<_>>();
        let value = |element: &(String, Vec<(String, String)>), name: &str| {
            element.1.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let suite = all("testsuite")[0];
        assert_eq!((value(suite, "tests"), value(suite, "failures")), ("4".into(), "2".into()));
        assert_eq!(value(suite, "name"), "a <&> \"b\"é");
        let names: Vec<_> = all("testcase").into_iter().map(|case| value(case, "name")).collect();
        assert_eq!(names, ["p95<500ms", "p50<1s", "requests are sent on time", "the run is complete"]);
        let messages: Vec<_> = all("failure").into_iter().map(|failure| value(failure, "message")).collect();
        assert_eq!(messages, ["p95<500ms: breached, at 612.00", "the run was stopped after 10.0 s"]);
        assert!(all("property").into_iter().any(|property| value(property, "name") == "offered"));
    }

    #[test]
    fn a_run_that_was_sent_late_has_failed_without_thresholds() {
        let mut report = report(RunSummary { offered: 40, ..RunSummary::default() });
        assert!(!document(&report).contains("<failure"));
        report.send_delays.is_bottleneck = true;
        report.send_delays.late_sends = 7;
        assert!(document(&report).contains("7 of 40 requests were sent late"));
    }
}

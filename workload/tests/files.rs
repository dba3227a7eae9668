//! Workload files in every format: what is accepted, what is refused, and that all formats say the same.

use proptest::prelude::*;
use workload::file::{self, ReadOptions};
use workload::format::FormatChoice;
use workload::{Error, MAX_SECONDS, Reason};

/// Reads a text. The result is the rates and the format in words, or the message of the error.
fn read(text: &str, format: FormatChoice) -> Result<(Vec<f64>, String), String> {
    let options = ReadOptions { format, function: None };
    let file = file::read(text.as_bytes(), &options).map_err(|error| error.to_string())?;
    Ok((file.workload.per_second, file.format.to_string()))
}

#[track_caller]
fn check(text: &str, format: FormatChoice, expected: &[f64], words: &str) {
    let (rates, found) = read(text, format).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(rates, expected, "{text:?}");
    assert!(found.contains(words), "{text:?}: {found}");
}

#[test]
fn numbers_may_have_fractions_commas_semicolons_and_any_line_end() {
    for text in [
        "7 1.5 70",
        "7\r\n1.5\r\n70\r\n",
        "\u{feff}7 1.5 70",
        "7, 1.5, 7e1",
        "7;1.5;70",
        "7 ,1.5\n,70",
        "7, 1.5,\n70,\n",
        "+7\t1.50 # comment, with commas\n\n70.",
    ] {
        check(text, FormatChoice::Auto, &[7.0, 1.5, 70.0], "numbers, one for each second");
    }
}

#[test]
fn a_list_may_be_of_python_or_json_and_have_many_lines() {
    for text in [
        "[7, 6, 7.5]",
        "[\n  7, # the first\n  6,\n  7.5,\n]\n",
        "workload = [7, 6, 7.5]",
        "{\"workload\": [7, 6, 7.5]}",
        "{\n  \"name\": \"x\",\n  \"workload\": [7, 6, 7.5],\n  \"seed\": 3\n}",
        "rates = np.array([7. 6. 7.5]);",
    ] {
        check(text, FormatChoice::Auto, &[7.0, 6.0, 7.5], "list with a number for each second");
    }
}

#[test]
fn a_rate_in_a_table_holds_until_the_time_of_the_next_row() {
    for text in [
        "second,rate\n0,5\n1,6\n3,8\n",
        "0,5\n1,6\n3,8",
        "0;5\r\n1;6\r\n3;8\r\n",
        "\u{feff}Time;RPS\n10;5\n11;6\n13;8",
        "\"timestamp\"\t\"value\"\n\"1769860800\"\t5\n1769860801\t6\n1769860803\t8",
        "name,count,t\na,5,1769860800000\nb,6,1769860801000\nc,8,1769860803000",
        "2026-01-31T12:00:00Z,5\n2026-01-31T12:00:01Z,6\n2026-01-31T12:00:03Z,8",
        "time,qps\n2026-01-31 12:59:59,5\n2026-01-31 13:00,6\n2026-01-31 13:00:02,8",
        "requests\n5\n6\n6\n8",
        "\"Time\",\"requests of a\"\n\"2026-01-31 12:00:00\",5\n\"2026-01-31 12:00:01\",6\n\"2026-01-31 12:00:03\",8",
    ] {
        check(text, FormatChoice::Auto, &[5.0, 6.0, 6.0, 8.0], "CSV with rates per second");
    }
    check("0,5", FormatChoice::Csv, &[5.0], "CSV");
    check("0,5\n1,6", FormatChoice::Counts, &[0.0, 5.0, 1.0, 6.0], "numbers");
    // Half of the first second has 4/s, and the other half 8/s.
    check("t,rate\n0.5,4\n1,8\n2.5,2", FormatChoice::Auto, &[6.0, 8.0, 2.0], "CSV");
}

#[test]
fn requests_of_a_minute_are_spread_over_its_seconds() {
    let expected = [vec![2.0; 60], vec![1.5; 60]].concat();
    for text in ["minute,count\n0,120\n1,90\n", "Minutes;requests\n5;120\n6;90", "minute,rps\n0,2\n1,1.5"] {
        let words = if text.contains("rps") { "rates per second" } else { "requests per minute" };
        check(text, FormatChoice::Auto, &expected, words);
    }
    for text in ["120 90", "[120, 90]", "0,120\n1,90", "2026-01-31 12:00,120\n2026-01-31 12:01,90", "count\n120\n90"] {
        let (rates, format) = read(text, FormatChoice::Minutes).expect(text);
        assert_eq!((rates, format.contains("minute")), (expected.clone(), true), "{text:?}: {format}");
    }
}

#[test]
fn the_rows_of_a_trace_of_functions_are_added_up_or_chosen() {
    let trace = "HashOwner,HashApp,HashFunction,Trigger,1,2\r\no,a,f1,http,60,0\r\no,a,f2,timer,60,90\r\n";
    let rates = |function: Option<&str>| {
        let options = ReadOptions { function: function.map(str::to_owned), ..ReadOptions::default() };
        file::read(trace.as_bytes(), &options).map(|file| file.workload.per_second)
    };
    let minutes = |first, second| [vec![first; 60], vec![second; 60]].concat();
    assert_eq!(rates(None).expect("a trace"), minutes(2.0, 1.5));
    assert_eq!(rates(Some("f1")).expect("a function"), minutes(1.0, 0.0));
    assert!(matches!(rates(Some("f")), Err(Error::NoFunction { function }) if function == "f"));
    let options = ReadOptions { function: Some("f1".into()), ..ReadOptions::default() };
    assert!(matches!(file::read(&b"7 6"[..], &options), Err(Error::NoFunctions)));
    assert!(matches!(file::read(&b"App,1,2\na,3,4"[..], &options), Err(Error::NoFunctions)));
    let rows = |count: usize| format!("App,1,2\n{}", "a,6e7,0\n".repeat(count)).parse::<workload::Workload>();
    assert!(rows(1).is_ok());
    assert!(matches!(rows(2), Err(Error::Busy { minute: 1, .. })));
}

#[test]
fn numbers_that_commas_and_semicolons_separate_are_refused() {
    for (text, column) in [("0;1,5\n1;2,5", 4), ("1,5;2,5", 4), ("[7, 6; 5]", 6)] {
        match text.parse::<workload::Workload>().expect_err(text) {
            Error::Content { line: 1, column: found, reason: Reason::Separators { .. } } => assert_eq!(found, column),
            error => panic!("{text:?}: {error}"),
        }
    }
}

#[test]
fn errors_give_the_line_and_the_column() {
    let number = |error: &Reason| matches!(error, Reason::Number { .. });
    let time = |error: &Reason| matches!(error, Reason::Time { .. });
    let order = |error: &Reason| matches!(error, Reason::Order { .. });
    let missing = |error: &Reason| matches!(error, Reason::Missing { .. });
    let width = |error: &Reason| matches!(error, Reason::Width { .. });
    let after = |error: &Reason| matches!(error, Reason::AfterList { .. });
    type Case = (&'static str, usize, usize, fn(&Reason) -> bool);
    let rows: [Case; 30] = [
        ("5 x", 1, 3, number),
        ("5\n6 -7", 2, 3, number),
        ("5 1000001", 1, 3, number),
        ("é 5", 1, 1, number),
        ("5 -0", 1, 3, number),
        ("5 NaN", 1, 3, number),
        ("5\ninf", 2, 1, number),
        ("\u{feff}5 x", 1, 3, number),
        ("5\r\n6 x\r\n", 2, 3, number),
        ("7,,6", 1, 3, missing),
        (",7", 1, 1, missing),
        ("[7, null]", 1, 5, number),
        ("[7, [6]]", 1, 5, number),
        ("[7,, 6]", 1, 4, missing),
        ("[7] * 10", 1, 5, after),
        ("{\"a\": [7],\n \"b\": [6]}", 2, 7, after),
        ("second,rate\n0,5\n1,x", 3, 3, number),
        ("second,rate\n0,5\n x,6", 3, 2, time),
        ("second,rate\n0,5\n0,6", 3, 1, order),
        ("7,6\n8,7\n7,6", 3, 1, order),
        ("second,rate\n0,5,1", 2, 1, width),
        ("second,rate\n0,5\n1", 3, 1, width),
        ("second,rate\n0,1000001", 2, 3, number),
        ("second;rate\n0;1,5", 2, 3, number),
        ("second,load average,x\n0,5,1", 1, 1, |error| *error == Reason::NoRates),
        ("x,rate\n0,5", 1, 1, |error| *error == Reason::NoTimes),
        ("second,rate\n0,5\n2026-01-31T12:00:00Z,6", 3, 1, time),
        ("minute,count\n0,60000001", 2, 3, number),
        ("HashFunction,1,2\nf,3,x", 2, 5, number),
        ("HashFunction,1,2\nf,3", 2, 1, width),
    ];
    for (text, line, column, is_expected) in rows {
        match text.parse::<workload::Workload>().expect_err(text) {
            Error::Content { line: found_line, column: found_column, reason } => {
                assert_eq!((found_line, found_column), (line, column), "{text:?}: {reason}");
                assert!(is_expected(&reason), "{text:?}: {reason}");
            }
            error => panic!("{text:?}: {error}"),
        }
    }
}

#[test]
fn empty_and_endless_workloads_are_refused() {
    let error = |text: &str| text.parse::<workload::Workload>().expect_err("refused");
    for text in ["", "# nothing\n", "[]", "second,rate\n", "HashFunction,1,2\n"] {
        assert!(matches!(error(text), Error::Empty), "{text:?}: {}", error(text));
    }
    assert!(matches!(error("[7, 6"), Error::OpenList));
    assert!(matches!(error("{\"rate\": 5}"), Error::NoList));
    let minutes = MAX_SECONDS / 60;
    let header: String = (1..=minutes + 1).map(|minute| format!(",{minute}")).collect();
    for text in [
        "1 ".repeat(MAX_SECONDS + 1),
        "second,rate\n0,5\n604800,5".into(),
        "second,rate\n0,5\n1e300,5".into(),
        "minute,count\n0,5\n10080,5".into(),
        format!("rate\n{}", "1\n".repeat(MAX_SECONDS + 1)),
        format!("HashFunction{header}\n"),
    ] {
        assert!(matches!(error(&text), Error::Long), "{}", error(&text));
    }
    assert_eq!(
        "second,rate\n0,5\n604799,5".parse::<workload::Workload>().expect("a week").per_second.len(),
        MAX_SECONDS
    );
}

/// Rates with up to three decimals.
fn rates() -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec((0_u32..5_000_000).prop_map(|thousandths| f64::from(thousandths) / 1e3), 2..50)
}

/// Lines of a table with a row for each second.
fn table(header: &str, rates: &[f64], time: impl Fn(usize) -> String) -> String {
    let rows = rates.iter().enumerate().map(|(second, rate)| format!("{},{rate}\n", time(second)));
    header.to_owned() + &rows.collect::<String>()
}

proptest! {
    #[test]
    fn all_formats_say_the_same(rates in rates(), start in 0_usize..100_000) {
        let words: Vec<String> = rates.iter().map(f64::to_string).collect();
        let distinct = |second: &usize| *second == 0 || rates[*second] != rates[second - 1];
        let mut gaps: String = "t,rate\n".into();
        for second in (0..rates.len()).filter(distinct) {
            gaps += &format!("{},{}\n", start + second, rates[second]);
        }
        // A last row keeps the seconds at the end that have the rate of the second before.
        let last = rates.len() - 1;
        if !distinct(&last) {
            gaps += &format!("{},{}\n", start + last, rates[last]);
        }
        let date = |second: usize| format!("1970-01-01T00:{:02}:{:02}Z", second / 60, second % 60);
        for text in [
            words.join(" "),
            words.join(", "),
            words.join(";\r\n"),
            format!("\u{feff}{}", words.join("\n")),
            format!("[{}]", words.join(",")),
            format!("{{\"workload\": [\n{}\n]}}", words.join(",\n")),
            format!("rps\n{}", words.join("\n")),
            table("second,rate\n", &rates, |second| second.to_string()),
            table("", &rates, |second| (start + second).to_string()),
            table("", &rates, date),
            table("timestamp,value\n", &rates, |second| format!("{}.25", 1_769_860_800 + second)),
            gaps,
        ] {
            let found = text.parse::<workload::Workload>();
            let found = found.map_err(|error| TestCaseError::fail(format!("{text:?}: {error}")))?.per_second;
            prop_assert_eq!(&found, &rates, "{:?}", text);
        }
    }

    #[test]
    fn all_formats_of_minutes_say_the_same(counts in proptest::collection::vec(0_u32..1_000_000, 2..20)) {
        let words: Vec<String> = counts.iter().map(u32::to_string).collect();
        let counts: Vec<f64> = counts.into_iter().map(f64::from).collect();
        let expected: Vec<f64> = counts.iter().flat_map(|count| [count / 60.0; 60]).collect();
        let numbers: Vec<String> = (1..=counts.len()).map(|number| number.to_string()).collect();
        let date = |minute: usize| format!("2026-01-31T12:{minute:02}:00+01:00");
        for (text, format) in [
            (table("minute,count\n", &counts, |minute| minute.to_string()), FormatChoice::Auto),
            (format!("HashFunction,{}\nf,{}\n", numbers.join(","), words.join(",")), FormatChoice::Auto),
            (words.join(" "), FormatChoice::Minutes),
            (format!("[{}]", words.join(", ")), FormatChoice::Minutes),
            (table("", &counts, |minute| minute.to_string()), FormatChoice::Minutes),
            (table("time,count\n", &counts, date), FormatChoice::Minutes),
        ] {
            prop_assert_eq!(read(&text, format).map(|(rates, _)| rates), Ok(expected.clone()), "{:?}", text);
        }
    }

    #[test]
    fn no_file_causes_a_panic_or_a_workload_longer_than_a_week(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            "[0-9,;\\[\\]{}\"#:. eTZ+\\-\n\r\ta\u{feff}]{0,200}".prop_map(String::into_bytes),
            "(second,rate|minute,count|HashFunction,1,2|)\n([0-9T:.eZ+\\-]{0,8}[,;\t ][0-9.e\\-]{0,7}\n){0,20}"
                .prop_map(String::into_bytes),
        ],
        choice in prop_oneof![
            Just(FormatChoice::Auto),
            Just(FormatChoice::Counts),
            Just(FormatChoice::Csv),
            Just(FormatChoice::Json),
            Just(FormatChoice::Minutes),
        ],
        function in proptest::option::of("[a-f]{0,2}"),
    ) {
        if let Ok(file) = file::read(bytes.as_slice(), &ReadOptions { format: choice, function }) {
            let rates = file.workload.per_second;
            prop_assert!((1..=MAX_SECONDS).contains(&rates.len()));
            prop_assert!(rates.iter().all(|rate| (0.0..=1_000_000.1).contains(rate)), "{rates:?}");
        }
    }
}

use super::*;

fn root(program: &[u8]) -> String {
    let program = [b"\x80\x02", program, b"."].concat();
    Pickle::read(&program).map_or_else(
        |error| error.to_string(),
        |pickle| match pickle.object(pickle.root) {
            Some(object) => format!("{object:?}"),
            None => format!("{:?}", pickle.root),
        },
    )
}

#[test]
fn a_call_is_never_made_and_leaves_the_name_of_the_function() {
    for call in [
        &b"cos\nsystem\nX\x04\x00\x00\x00true\x85R"[..],
        b"\x8c\x02os\x8c\x06system\x93X\x04\x00\x00\x00true\x85R",
        b"cos\nsystem\n)\x81}b",
        b"cos\nsystem\n)}\x92",
        b"(cos\nsystem\no",
    ] {
        assert_eq!(root(call), r#"Opaque(Global { module: "os", name: "system" })"#);
    }
}

#[test]
fn values_of_protocols_2_to_5_are_read() {
    for (program, expected) in [
        (&b"K\xff"[..], "Int(255)"),
        (b"M\xff\xff", "Int(65535)"),
        (b"J\xfe\xff\xff\xff", "Int(-2)"),
        (b"\x8a\x02\xfe\xff", "Int(-2)"),
        (b"\x8b\x09\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01", "Int(1)"),
        (b"\x8a\x00", "Int(0)"),
        (b"G\x3f\xf0\x00\x00\x00\x00\x00\x00", "Other"),
        (b"\x95\x03\x00\x00\x00\x00\x00\x00\x00\x8c\x01a", "Text(\"a\")"),
        (b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00a", "Text(\"a\")"),
        (b"U\x01a", "Text(\"a\")"),
        (b"\x8c\x01\xff", "Other"),
        (b"C\x02ab", "Other"),
        (b"\x96\x01\x00\x00\x00\x00\x00\x00\x00a", "Other"),
        (b"\x8f(K\x01\x90", "Opaque(Global { module: \"builtins\", name: \"set\" })"),
        (b"(K\x01\x91", "Opaque(Global { module: \"builtins\", name: \"frozenset\" })"),
        (b"]K\x01a(K\x02K\x03e", "Sequence([Int(1), Int(2), Int(3)])"),
        (b"(K\x01K\x02l", "Sequence([Int(1), Int(2)])"),
        (b"(K\x01K\x02d", "Dict([(Int(1), Int(2))])"),
        (b"}\x94K\x01K\x02s0h\x00", "Dict([(Int(1), Int(2))])"),
        (b"K\x01(K\x02K\x03100", "an instruction needs more values than the stack has"),
        (b"K\x012\x86", "Sequence([Int(1), Int(1)])"),
        (b"ccollections\nOrderedDict\n]]K\x01aa\x85R", "Dict([])"),
        (b"ccollections\nOrderedDict\n](K\x01K\x02la\x85R", "Dict([(Int(1), Int(2))])"),
    ] {
        assert_eq!(root(program), expected, "{program:?}");
    }
}

#[test]
fn a_dict_that_is_read_from_the_memo_has_the_entries_that_come_later() {
    // `{1: d, 2: d}`, and 3 is put into d at the end.
    let shared = root(b"}q\x000(h\x00K\x01K\x02s0h\x001h\x00");
    assert_eq!(shared, "Dict([(Int(1), Int(2))])");
}

#[test]
fn malformed_pickles_are_refused() {
    for (program, expected) in [
        (&b"R"[..], "more values"),
        (b"0", "more values"),
        (b"t", "needs a mark"),
        (b"K\x01(s", "more values"),
        (b"h\x07", "never stored"),
        (b"q\x07", "the stack is empty"),
        (b"K\x01K\x02a", "no object"),
        (b"K\x01K\x02\x93", "not text"),
        (b"K\x01Q", "not a tuple"),
        (b"X\xff\xff\xff\xff", "cut short"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "cut short"),
        (b"I1\n", "instruction 0x49"),
        (b"\x80\x06", "protocol 6"),
    ] {
        assert!(root(program).contains(expected), "{program:?}: {}", root(program));
    }
}

#[test]
fn nesting_circles_and_long_pickles_do_no_harm() {
    let nested = [b"N".to_vec(), b"\x85".repeat(100_000)].concat();
    assert!(root(&nested).starts_with("Sequence"));
    // A list that contains itself: printing it would not end, so only the reading is checked.
    assert!(Pickle::read(b"\x80\x02]\x94h\x00a.").is_ok());
    assert!(root(&b"N0".repeat(MAX_STEPS / 2 + 1)).contains("instructions"));
    // 20,000 times a dict of the same list of 1,000 pairs.
    let list = [b"]\x940(".to_vec(), b"K\x01K\x02\x86".repeat(1000), b"l\x94".to_vec()].concat();
    let calls = b"ccollections\nOrderedDict\nh\x01\x85R".repeat(20_000);
    assert!(root(&[list, calls].concat()).contains("instructions"));
}

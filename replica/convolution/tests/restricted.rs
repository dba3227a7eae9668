//! The limit of the instructions, which holds for the whole process and so needs a program of its own.

use convolution::Instructions;
use convolution::int8::Int8Instructions;

#[test]
fn a_restricted_process_uses_no_faster_instructions_for_numbers_and_for_levels() {
    Instructions::Portable.restrict();
    assert_eq!(Instructions::available(), [Instructions::Portable]);
    assert_eq!(Int8Instructions::available(), [Int8Instructions::Portable]);
}

//! The values that a window keeps.

use law::window::Window;
use std::time::Duration;

#[test]
fn a_window_reaches_back_over_its_span() {
    let second = Duration::from_secs;
    let mut window = Window::new(second(10));
    [0, 4, 8, 12, 16].into_iter().for_each(|at| window.push(second(at), at));
    assert_eq!((window.oldest(), window.newest()), (Some(&4), Some(&(second(16), 16))));
    assert_eq!((window.at(second(11)), window.at(second(3))), (Some(&(second(8), 8)), None));
    assert_eq!(window.within(second(16), second(8)).copied().collect::<Vec<_>>(), [16, 12]);
}

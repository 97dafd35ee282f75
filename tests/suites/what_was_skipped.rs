//! The last test program: says how many tests the others skipped, and why.

use oz_worker_tests::peers::take_skipped;

fn main() {
    // A runner that only wants to know which tests there are gets none.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let skipped = take_skipped();
    match skipped.len() {
        0 => println!("\nno test was skipped\n"),
        1 => println!("\n1 test was skipped:"),
        count => println!("\n{count} tests were skipped:"),
    }
    for what in skipped {
        println!("  {what}");
    }
}

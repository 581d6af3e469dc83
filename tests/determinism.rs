//! One seed gives the same events, byte by byte, for any batch size.

use crate::support::{Lab, Setup, history};

#[test]
fn events_are_byte_identical_for_batches_of_1_4_and_16_prompts() {
    let histories: Vec<_> = [1, 4, 16]
        .into_iter()
        .filter_map(|batch_prompts| {
            let lab = Lab::new(&Setup { prompts: 18, batch_prompts, ..Setup::default() })?;
            lab.run("data");
            Some(history(&lab.events("data")))
        })
        .collect();
    for other in histories.iter().skip(1) {
        assert_eq!(&histories[0], other);
    }
}

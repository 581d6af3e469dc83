//! Contrasts within groups: what marked members have more than the others of their group.

/// Returns, for each group with marked and unmarked members, the mean of the marked values minus that of the
/// others. `groups` are pairs of values and marks, each of shape `[members]`.
pub fn contrasts<'a>(groups: impl IntoIterator<Item = (&'a [f64], &'a [bool])>) -> Vec<f64> {
    let of_group = |(values, marks): (&[f64], &[bool])| {
        let mean = |wanted: bool| {
            let (mut sum, mut count) = (0.0, 0_u32);
            for (value, _) in values.iter().zip(marks).filter(|(_, mark)| **mark == wanted) {
                sum += value;
                count += 1;
            }
            (count > 0).then(|| sum / f64::from(count))
        };
        Some(mean(true)? - mean(false)?)
    };
    groups.into_iter().filter_map(of_group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_groups_with_both_kinds_count() {
        let groups: [(&[f64], &[bool]); 4] = [
            (&[1.0, 2.0, 6.0], &[false, false, true]),
            (&[1.0, 2.0], &[true, true]),
            (&[3.0], &[false]),
            (&[4.0, 0.0], &[false, true]),
        ];
        assert_eq!(contrasts(groups), [4.5, -4.0]);
    }
}

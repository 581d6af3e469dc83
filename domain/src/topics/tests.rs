use super::*;

const GARDEN: [&str; 8] = [
    "How do I prune roses in the garden?",
    "When should I plant tomatoes in the garden?",
    "Which soil do roses need?",
    "How often should I water tomatoes?",
    "Why do the leaves of my roses turn yellow?",
    "What soil do tomatoes need in a pot?",
    "How do I plant roses in a pot?",
    "Should I water the garden in winter?",
];
const CODE: [&str; 8] = [
    "How do I sort a list in Python?",
    "Why does my Python loop never end?",
    "How do I read a file in Python?",
    "What is a function in Python code?",
    "How do I sort a file by line in code?",
    "Why does my Python function return a list?",
    "Can a loop read a list in code?",
    "How do I read a file in a Python function?",
];
const CHINESE: [&str; 8] = [
    "北京的天气怎么样？",
    "上海的天气怎么样？",
    "明天北京的天气好吗？",
    "今天上海下雨吗？",
    "北京明天下雨吗？",
    "上海今天的天气好吗？",
    "明天上海的天气怎么样？",
    "今天北京下雨吗？",
];

fn of_all() -> Vec<&'static str> {
    // Interleaved, so that the order tells nothing.
    GARDEN
        .into_iter()
        .zip(CODE)
        .zip(CHINESE)
        .flat_map(|((garden, code), chinese)| [garden, code, chinese])
        .collect()
}

#[test]
fn prompts_of_three_subjects_make_three_named_topics() {
    let settings = TopicSettings { topics: Some(3), ..TopicSettings::default() };
    let found = topics(&of_all(), None, &settings).unwrap();
    assert_eq!(found.topics.len(), 3);
    for start in 0..3 {
        let topics: Vec<_> = found.of_prompt.iter().skip(start).step_by(3).collect();
        assert!(topics.iter().all(|topic| *topic == topics[0]), "{topics:?}");
    }
    let words = |prompt: usize| &found.topics[found.of_prompt[prompt].unwrap()].words;
    assert!(
        words(0).contains(&"roses".to_owned()) && words(0).contains(&"garden".to_owned()),
        "{:?}",
        words(0)
    );
    assert!(words(1).contains(&"python".to_owned()), "{:?}", words(1));
    assert!(words(2).contains(&"天气".to_owned()), "{:?}", words(2));
    for word in ["do", "i", "how", "the"] {
        assert!(!found.topics.iter().any(|topic| topic.words.contains(&word.to_owned())), "{word}");
    }
}

#[test]
fn the_number_of_separate_groups_of_features_is_found() {
    for groups in [2, 5, 9] {
        let mut random = crate::random::Random::new(groups as u64);
        let mut noise = || (0..8).map(|_| random.unit() - 0.5).sum::<f64>();
        let centres: Vec<Vec<f64>> = (0..groups).map(|_| (0..200).map(|_| noise()).collect()).collect();
        let features: Vec<Vec<f32>> = (0..30 * groups)
            .map(|row| {
                #[expect(clippy::cast_possible_truncation, reason = "features are single precision")]
                let value = |centre: &f64| (100.0 + 3.0 * centre + 2.0 * noise()) as f32;
                centres[row % groups].iter().map(value).collect()
            })
            .collect();
        let texts = vec!["a prompt"; features.len()];
        let found = topics(&texts, Some(&features), &TopicSettings::default()).unwrap();
        assert_eq!(found.topics.len(), groups, "silhouette {}", found.silhouette);
        let pure =
            |topic: &Topic| topic.prompts.iter().all(|prompt| prompt % groups == topic.prompts[0] % groups);
        assert!(found.topics.iter().all(pure));
        assert!(
            found.topics.iter().all(|topic| topic.words.is_empty()),
            "equal texts have no distinctive words"
        );
    }
}

#[test]
fn few_prompts_and_equal_prompts_make_one_topic() {
    assert_eq!(topics(&GARDEN[..4], None, &TopicSettings::default()).unwrap().topics.len(), 1);
    let none = topics(&[], None, &TopicSettings::default()).unwrap();
    assert_eq!((none.topics, none.of_prompt), (vec![], vec![]));
    let equal = topics(&["", "?", "…"], None, &TopicSettings::default()).unwrap();
    assert_eq!(equal.of_prompt, [None; 3], "prompts without words have no topic");
}

#[test]
fn the_same_seed_gives_the_same_topics() {
    let settings = TopicSettings { seed: 5, ..TopicSettings::default() };
    let found = topics(&of_all(), None, &settings).unwrap();
    assert_eq!(topics(&of_all(), None, &settings).unwrap(), found);
    let mut sizes: Vec<usize> = found.topics.iter().map(|topic| topic.prompts.len()).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b));
    sizes.retain(|size| *size == 0);
    assert!(sizes.is_empty(), "no topic is empty");
}

#[test]
fn features_that_do_not_fit_are_named() {
    let check =
        |features: &[Vec<f32>]| topics(&["a", "b"], Some(features), &TopicSettings::default()).unwrap_err();
    assert_eq!(check(&[vec![1.0]]), FeatureError::Count { features: 1, prompts: 2 });
    let lengths = check(&[vec![1.0, 2.0], vec![1.0]]);
    assert_eq!(lengths.to_string(), "features[1] has 1 numbers: use 2, as features[0] has");
    assert_eq!(check(&[vec![1.0], vec![f32::NAN]]), FeatureError::NotFinite { prompt: 1, feature: 0 });
}

//! Refusals, by phrases of several languages in the first sentences.
//!
//! A phrase that declines is the speaker's inability and, within a few words, an act for the reader: "I can't
//! help", not "I can't believe" and not "you can't mix". Some phrases are enough alone.

use crate::words::{count_words, folded, is_unspaced};

/// Length of the begin that is read, in characters.
const BEGIN: usize = 320;
/// Number of sentences that are read.
const SENTENCES: usize = 2;
/// Longest completion that is a refusal, in words. A longer one answers after a reservation.
const WORDS_MAX: usize = 400;

/// What the speaker cannot do, in one language.
struct Inability {
    /// Begins of the phrase, with spaces around words.
    begins: &'static [&'static str],
    /// Acts for the reader, of which one follows; spaces mark whole words.
    acts: &'static [&'static str],
    /// Largest number of words from the begin to the act.
    within: usize,
}

const INABILITIES: [Inability; 10] = [
    Inability {
        begins: &[
            " i can't ",
            " i cannot ",
            " i can not ",
            " i'm unable to ",
            " i am unable to ",
            " i'm not able to ",
            " i am not able to ",
            " i won't ",
            " i will not ",
            " i'm not going to ",
            " i am not going to ",
            " i refuse to ",
            " i must refuse to ",
            " i'm afraid i can't ",
            " i'm not allowed to ",
            " i am not allowed to ",
            " i'm not in a position to ",
            " i don't feel comfortable ",
            " i do not feel comfortable ",
            " i'm not comfortable ",
            " i am not comfortable ",
            " i don't have the ability to ",
            " i have to refuse to ",
        ],
        acts: &[
            " help",
            " assist",
            " provid",
            " do that",
            " do this",
            " do so",
            " comply",
            " fulfil",
            " creat",
            " writ",
            " generat",
            " answer",
            " giv",
            " shar",
            " discuss",
            " recommend",
            " support",
            " engag",
            " tell you",
            " offer",
            " predict",
            " participat",
            " produc",
            " complete ",
            " respond",
            " advise",
            " disclose",
            " continue",
            " access",
            " talk about",
            " process",
        ],
        within: 4,
    },
    Inability {
        begins: &[
            " kann ich ",
            " ich kann ",
            " ich darf ",
            " darf ich ",
            " ich werde ",
            " ich möchte ",
            " ich könnte ",
        ],
        acts: &[
            " nicht helfen",
            " nicht weiterhelfen",
            " nicht behilflich",
            " nicht schreiben",
            " leider nicht ",
            " nicht beantworten",
            " nicht unterstützen",
            " nicht erfüllen",
            " nicht nachkommen",
            " nicht geben",
            " nicht weitergeben",
            " nicht nennen",
            " keine auskunft",
            " keine privaten",
            " keine anleitung",
            " keine hilfe",
            " keine informationen",
            " keine ratschläge",
            " nicht bereitstellen",
            " nicht erstellen",
            " nicht verfassen",
        ],
        within: 8,
    },
    Inability {
        begins: &[
            " je ne peux pas ",
            " je ne peux malheureusement pas ",
            " je ne suis pas en mesure ",
            " je ne saurais ",
            " je ne veux pas ",
            " je ne vais pas ",
            " je refuse ",
            " je ne suis pas capable ",
            " je ne peux ni ",
        ],
        acts: &[
            " aider",
            " répondre",
            " fournir",
            " écrire",
            " faire ",
            " donner",
            " rédiger",
            " satisfaire",
            " accéder",
            " assister",
            " partager",
            " prédire",
            " recommander",
            " créer",
        ],
        within: 5,
    },
    Inability {
        begins: &[
            " no puedo ",
            " no me es posible ",
            " no soy capaz ",
            " no voy a ",
            " no estoy en condiciones ",
            " no me siento cómodo ",
        ],
        acts: &[
            " ayudar",
            " proporcionar",
            " dar ",
            " darte",
            " darle",
            " responder",
            " escribir",
            " cumplir",
            " ofrecer",
            " hacer eso",
            " hacer esto",
            " compartir",
            " asistir",
            " crear",
            " recomendar",
        ],
        within: 5,
    },
    Inability {
        begins: &[" non posso ", " non sono in grado ", " non mi è possibile ", " non intendo "],
        acts: &[
            " aiutar",
            " fornir",
            " rispond",
            " scriver",
            " darti",
            " dare ",
            " assister",
            " soddisfar",
            " farlo",
            " consigliar",
            " condivider",
        ],
        within: 5,
    },
    Inability {
        begins: &[" não posso ", " não consigo ", " não sou capaz ", " não me é possível ", " não vou "],
        acts: &[
            " ajud",
            " fornec",
            " respond",
            " escrev",
            " dar ",
            " atender",
            " fazer isso",
            " oferecer",
            " compartilhar",
            " criar",
        ],
        within: 5,
    },
    Inability {
        begins: &[" kan ik ", " ik kan ", " ik mag ", " mag ik ", " ik wil ", " ik zal "],
        acts: &[
            " niet bij helpen",
            " niet mee helpen",
            " niet helpen",
            " niet schrijven",
            " niet geven",
            " niet beantwoorden",
            " geen informatie",
            " niet voldoen",
            " geen hulp",
        ],
        within: 8,
    },
    Inability {
        begins: &[
            " не могу ",
            " не смогу ",
            " не буду ",
            " не в состоянии ",
            " отказываюсь ",
            " не можу ",
            " не вправе ",
        ],
        acts: &[
            " помо",
            " помог",
            " предостав",
            " ответ",
            " отвеч",
            " выполн",
            " напис",
            " писать",
            " дать",
            " давать",
            " обсужд",
            " допомог",
            " надати",
            " советовать",
            " подсказ",
        ],
        within: 5,
    },
    Inability {
        begins: &[" nie mogę ", " nie jestem w stanie ", " nie będę ", " nemohu ", " nemôžem "],
        acts: &[
            " pomóc",
            " podać",
            " napisać",
            " udziel",
            " odpowiedzieć",
            " spełnić",
            " dostarczyć",
            " pomoci",
            " pomoct",
            " pomôcť",
            " poskytnout",
        ],
        within: 5,
    },
    Inability {
        begins: &[
            " jag kan inte ",
            " kan jag inte ",
            " jeg kan ikke ",
            " kan jeg ikke ",
            " jag får inte ",
            " لا أستطيع ",
            " لا يمكنني ",
            " لن أستطيع ",
        ],
        acts: &[
            " hjälpa",
            " hjelpe",
            " hjælpe",
            " svara",
            " svare",
            " skriva",
            " skrive",
            " ge ",
            " مساعد",
            " تقديم",
            " تزويد",
            " الإجابة",
            " المساعدة",
        ],
        within: 5,
    },
];

/// Phrases that decline alone, in folded text.
const PHRASES: [&str; 95] = [
    " do not condone ",
    " don't condone ",
    " cannot condone ",
    " can't condone ",
    " not appropriate or ethical",
    " not appropriate or respectful",
    " not accurate or appropriate",
    " not accurate or respectful",
    " not ethical or legal",
    " not ethical or safe",
    " not appropriate or safe",
    " not ethical to try ",
    " not ethical or appropriate",
    " never ethical or ",
    " never appropriate to ",
    " not appropriate to ask ",
    " not appropriate to suggest ",
    " not appropriate to discuss ",
    " not appropriate to make ",
    " not appropriate to promote ",
    " not appropriate to provide ",
    " not appropriate to say ",
    " not appropriate to seek ",
    " not appropriate to compare ",
    " not appropriate to share ",
    " not appropriate to use ",
    " don't think it's appropriate",
    " do not think it is appropriate",
    " don't think it is appropriate",
    " strongly advise against ",
    " is not recommended to attempt ",
    " i must decline",
    " i have to decline",
    " i'll have to decline",
    " i need to decline",
    " i decline to ",
    " i'd rather not ",
    " i would rather not ",
    " i'd prefer not to ",
    " i would prefer not to ",
    " not something i can ",
    " not something i'm able",
    " not something i am able",
    " isn't something i ",
    " don't think it would be right",
    " do not think it would be right",
    " don't think i should ",
    " wouldn't be appropriate for me",
    " would not be appropriate for me",
    " not appropriate for me",
    " isn't appropriate for me",
    " i'm not qualified to ",
    " i am not qualified to ",
    " against my guidelines",
    " outside what i can ",
    " beyond what i can ",
    " outside the scope of what i ",
    " i can't help you there",
    " i must refuse",
    " lehne ich ab",
    " ich lehne ",
    " muss ich ablehnen",
    " möchte ich lieber nicht",
    " je dois refuser",
    " je préfère ne pas ",
    " je dois décliner",
    " debo negarme",
    " prefiero no ",
    " preferisco non ",
    " devo rifiutare",
    " prefiro não ",
    " devo recusar",
    " yardımcı olamam",
    " yardım edemem",
    " bunu yapamam",
    " bilgi veremem",
    " cevap veremem",
    "无法提供",
    "不能提供",
    "无法帮助",
    "不能帮",
    "无法回答",
    "不能回答",
    "无法满足",
    "无法协助",
    "无法为您",
    "お応えできません",
    "お答えできません",
    "お手伝いできません",
    "提供できません",
    "対応できません",
    "수 없습니다만",
    "मदद नहीं कर सक",
    "सहायता नहीं कर सक",
    " yapmam mümkün değil",
];

/// Acts that a Korean completion declines with "수 없", and Japanese ones with "できません".
const KOREAN: [&str; 8] = ["도와드릴", "도울", "도와줄", "제공할", "제공해", "답변", "알려드릴", "응할"];

/// Returns the phrase with which a completion declines the request, in lower case; `None` without one.
pub(super) fn refusal(completion: &str) -> Option<String> {
    let begin: String = completion.trim_start().chars().take(BEGIN).collect();
    let begin = folded(&begin.replace(['*', '_'], ""));
    if is_quotation(&begin) || is_letter(&begin) || is_long(completion) {
        return None;
    }
    sentences(&begin).take(SENTENCES).find_map(|sentence| declining_phrase(&sentence, &begin))
}

fn is_long(completion: &str) -> bool {
    // A word has at least two bytes with its space.
    completion.len() > 2 * WORDS_MAX && count_words(completion) > WORDS_MAX
}

/// Whether a text begins with the words of another.
fn is_quotation(begin: &str) -> bool {
    begin.trim_start().starts_with(['"', '“', '„', '«', '「', '‹', '—', '–'])
}

/// Whether a text begins as a letter, in which somebody else may decline.
fn is_letter(begin: &str) -> bool {
    let salutations = [
        " dear ",
        " subject:",
        " hi ",
        " hello ",
        " liebe",
        " sehr geehrte",
        " betreff:",
        " cher",
        " objet",
        " querid",
        " estimad",
        " gentile ",
        " caro ",
        " cara ",
        " beste ",
        " уважаем",
        " дорог",
    ];
    salutations.iter().any(|salutation| begin.starts_with(salutation))
}

/// Returns the sentences of a folded text, each with a space at both ends. An apology before a comma or a
/// colon belongs to its sentence.
fn sentences(folded: &str) -> impl Iterator<Item = String> {
    let ends = |character: char| matches!(character, '.' | '!' | '?' | '。' | '！' | '？' | ';' | '…');
    let parts = folded.split(ends).filter(|part| part.chars().any(char::is_alphabetic));
    parts.map(|part| {
        let words = part.replace([',', ':', '"', '(', ')', '，', '、'], " ");
        format!(" {} ", words.split_whitespace().collect::<Vec<_>>().join(" "))
    })
}

/// Returns the phrase of a sentence that declines. `begin` is the begin of the completion.
fn declining_phrase(sentence: &str, begin: &str) -> Option<String> {
    let phrase = PHRASES.into_iter().find(|phrase| sentence.contains(phrase));
    let phrase = phrase.map(|phrase| phrase.trim().to_owned());
    phrase
        .or_else(|| inability(sentence))
        .or_else(|| of_model(sentence, begin))
        .or_else(|| in_korean(sentence))
}

/// Finds an inability and an act for the reader soon after it.
fn inability(sentence: &str) -> Option<String> {
    for Inability { begins, acts, within } in &INABILITIES {
        for begin in *begins {
            for (start, _) in sentence.match_indices(begin) {
                let after = &sentence[start + begin.len() - 1..];
                // The space before each word keeps acts at begins of words.
                let near =
                    format!(" {} ", after.split_whitespace().take(*within).collect::<Vec<_>>().join(" "));
                if let Some(act) = acts.iter().find(|act| near.contains(**act)) {
                    return Some(format!("{} … {}", begin.trim(), act.trim()));
                }
            }
        }
    }
    None
}

/// Finds "as an AI" with a negation after it, unless an answer follows.
fn of_model(sentence: &str, begin: &str) -> Option<String> {
    let answers = [
        " i can tell ",
        " i can provide ",
        " i can offer ",
        " i can explain ",
        " i can give ",
        " i can share ",
        " however, ",
    ];
    if answers.iter().any(|phrase| begin.contains(phrase)) {
        return None;
    }
    let after =
        [" as an ai ", " as a language model ", " als ki ", " en tant qu'ia ", " como ia ", " come ia "]
            .iter()
            .find_map(|phrase| sentence.split_once(phrase).map(|(_, after)| (*phrase, format!(" {after}"))));
    let (phrase, after) = after?;
    let negations = [
        " can't ",
        " cannot ",
        " don't ",
        " do not ",
        " not able ",
        " unable ",
        " won't ",
        " kann ich nicht",
        " keine ",
        " ne peux pas ",
        " no puedo ",
        " no tengo ",
        " non posso ",
        " não posso ",
        " não tenho ",
    ];
    negations.iter().any(|negation| after.contains(negation)).then(|| phrase.trim().to_owned())
}

fn in_korean(sentence: &str) -> Option<String> {
    let declines = sentence.contains("수 없") || sentence.contains("어렵습니다");
    let act = KOREAN.into_iter().find(|act| declines && sentence.contains(act));
    let japanese = || {
        let declines =
            sentence.contains("できません") || sentence.contains("出来ません") || sentence.contains("お断り");
        let apology =
            sentence.contains("申し訳") || sentence.contains("すみません") || sentence.contains("ごめん");
        (declines && apology && sentence.contains(is_unspaced)).then_some("できません")
    };
    act.or_else(japanese).map(str::to_owned)
}

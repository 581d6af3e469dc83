//! Languages of texts by their function words, which even a short question has. Topics leave them out.
//!
//! The words are articles, pronouns, prepositions, question words and the verbs of requests. A word of
//! several languages counts for each of them with the same fraction of its weight. Detectors by trigrams need
//! longer texts than most prompts.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::words::words;

/// A language that function words tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Language(usize);

impl Language {
    /// The ISO 639-1 code.
    pub(crate) fn code(self) -> &'static str {
        LANGUAGES[self.0].0
    }
}

/// Smallest weight of the words of a language in a text. One word of no other language is enough for a
/// prompt.
const WEIGHT_MIN: f64 = 1.0;
/// Largest weight of the second language, as a share of the first.
const SECOND_MAX: f64 = 0.6;
/// Smallest weight per word of the text, so that names and quotations do not tell its language.
const DENSITY_MIN: f64 = 0.12;

/// Codes of languages, their function words, and characters that no other language here has.
const LANGUAGES: [(&str, &str, &str); 15] = [
    (
        "en",
        "the a an and or of to in on at for from with by is are was were be been has have had do does did not what which who why how \
         when where this that these those it its he she they we you i my your our their there here if then than as but so can \
         could should would will shall may might must about into over after before because while write explain describe tell give \
         list name make me between also them him her us only some any all more most very just it's don't can't i'm you're",
        "",
    ),
    (
        "de",
        "der die das den dem des ein eine einen einem einer und oder aber nicht kein keine ist sind war waren sein hat haben \
         wird werden kann können soll muss mit von zu zum zur im in am an auf für aus bei nach über unter durch ohne was wer wie wo \
         warum wann welche welcher welches ich du er sie es wir ihr mir mich dir dich sich mein dein dass wenn weil auch noch nur schon \
         sehr so als bis um dann hier bitte schreibe schreib erkläre beschreibe gib nenne man viel mehr lange",
        "ß",
    ),
    (
        "fr",
        "le la les un une des du de et ou mais pas ne est sont était être a ont avoir fait dans sur pour par avec sans sous chez au aux \
         ce cette ces que qui quoi quel quelle quels comment pourquoi où quand je tu il elle nous vous ils elles on mon ma mes ton \
         ta son sa ses leur leurs se si plus très aussi comme tout bien écris écrivez explique décris donne donnez peux peut faut \
         puis entre vers d'un d'une c'est l'eau qu'est qu'il n'est j'ai",
        "œ",
    ),
    (
        "es",
        "el la los las un una unos unas y o pero no es son está están era ser estar hay ha han de del al en por para con sin sobre \
         entre hasta desde qué que quién cuál cuáles cómo dónde cuándo cuánto cuántos porque yo tú él ella nosotros ellos usted me te se le lo su \
         sus mi mis tu más muy también como si ya este esta estos esa ese eso escribe explica describe dame cuéntame puedo puede hacer \
         cada después primero luego cuando donde",
        "ñ¿¡",
    ),
    (
        "it",
        "il lo la i gli le un uno una e o ma non è sono era essere ha hanno avere di del della dei delle dello al alla ai nel nella in \
         su sul sulla per con senza tra fra da dal dalla che chi cosa quale quali come dove quando perché quanto io tu lui lei noi voi loro \
         mi ti si ci vi mio tuo suo più molto anche se questo questa questi scrivi spiega descrivi dammi posso può fare poi già cos'è \
         qual c'è",
        "",
    ),
    (
        "pt",
        "o a os as um uma uns umas e ou mas não é são está estão era ser ter há de do da dos das em no na nos nas por para com sem sobre \
         entre até que quem qual quais como onde quando porque quanto eu tu você ele ela nós eles me te se lhe seu sua meu minha mais muito \
         também já este esta isso escreva explique descreva posso pode fazer ao à pelo pela depois",
        "ãõ",
    ),
    (
        "nl",
        "de het een en of maar niet geen is zijn was waren heeft hebben had wordt worden kan kunnen moet van naar in op aan voor uit bij \
         met door over onder zonder tot wat wie waar hoe waarom wanneer welke ik jij je hij zij ze wij we jullie u mij me hem haar mijn \
         jouw ons dat dit deze die er ook nog maar als dan om te schrijf leg geef noem veel meer laat maak",
        "",
    ),
    (
        "sv",
        "och eller men inte är var vara har hade kan ska skulle måste en ett den det de dem av till från med på i om för utan under över vad \
         vem hur varför när var vilken vilka jag du han hon vi ni mig dig sig min din som att också så mycket mer skriv förklara beskriv",
        "",
    ),
    (
        "da",
        "og eller men ikke er var være har havde kan skal skulle må en et den det de dem af til fra med på i om for uden under over hvad \
         hvem hvordan hvorfor hvornår hvor hvilken jeg du han hun vi mig dig sig min din som at også så meget mere skriv forklar beskriv",
        "",
    ),
    (
        "pl",
        "i a lub ale nie jest są był była było być ma mają może w we z ze na do od dla po pod nad przez bez o u co kto jak gdzie kiedy \
         dlaczego czy który która które jaki jaka ja ty on ona my wy oni mnie mi cię się go mój twój to ten ta te tego tym tak też już bardzo \
         napisz opisz wyjaśnij opowiedz podaj działa ich jego",
        "łąęśżźńć",
    ),
    (
        "tr",
        "ve veya ama değil bir bu şu o ne kim nasıl neden niçin nerede zaman hangi kaç mi mı mu mü için ile gibi kadar daha çok en ben sen \
         biz siz onlar bana sana benim senin var yok olan olarak olur ki de da yaz açıkla anlat ver bunu her sonra",
        "ğış",
    ),
    (
        "fi",
        "ja tai mutta ei on ovat oli olla se ne tämä nämä mikä mitä kuka miten miksi missä milloin minä sinä hän me te he kun jos että myös \
         niin kuin vain hyvin kirjoita selitä kerro voi",
        "",
    ),
    (
        "ru",
        "и в во не на с со что как по это но из у за от о об к для же бы ты я он она мы вы они мне меня его её их мой твой где когда \
         почему зачем кто какой какая какие чем если то так уже очень только или до при был была было быть есть напиши объясни расскажи опиши \
         который можно потом",
        "ыэё",
    ),
    (
        "uk",
        "і й в у не на з із що як по це але за від до для же ти я він вона ми ви вони мені мене його її їх мій де коли чому хто який яка \
         які якщо то так вже дуже тільки або при був була було бути є напиши поясни розкажи опиши",
        "їєґі",
    ),
    (
        "bg",
        "и в във не на с със че как по това но от за до да са е ще би ти аз той тя ние вие те ми ме го я им къде кога защо кой каква какви ако \
         така вече много само или при беше бил има напиши обясни разкажи опиши който",
        "",
    ),
];

/// Function words with the languages that have them.
pub(crate) struct FunctionWords(BTreeMap<&'static str, Vec<usize>>);

static TABLE: LazyLock<FunctionWords> = LazyLock::new(FunctionWords::new);

impl FunctionWords {
    /// The table of every language.
    pub(crate) fn table() -> &'static Self {
        &TABLE
    }

    fn new() -> Self {
        let mut table = BTreeMap::<&str, Vec<usize>>::new();
        for (index, (_, words, _)) in LANGUAGES.iter().enumerate() {
            for word in words.split_whitespace() {
                let languages = table.entry(word).or_default();
                if !languages.contains(&index) {
                    languages.push(index);
                }
            }
        }
        Self(table)
    }

    /// Whether a word in lower case is a function word of any language.
    pub(crate) fn contains(&self, word: &str) -> bool {
        self.0.contains_key(word)
    }

    /// Returns the language of a text in lower case; `None` if its words do not tell it.
    pub(crate) fn language(&self, text: &str) -> Option<Language> {
        let mut weights = [0.0; LANGUAGES.len()];
        let mut count = 0_usize;
        for word in words(text) {
            count += 1;
            if let Some(languages) = self.0.get(word) {
                languages.iter().for_each(|index| weights[*index] += 1.0 / languages.len() as f64);
            } else if !word.is_ascii() {
                let has_mark = |(_, _, marks): &(&str, &str, &str)| word.contains(|it| marks.contains(it));
                weights
                    .iter_mut()
                    .zip(&LANGUAGES)
                    .filter(|(_, of)| has_mark(of))
                    .for_each(|(weight, _)| *weight += 0.5);
            }
        }
        // Marks of punctuation are in no word.
        for (weight, (_, _, marks)) in weights.iter_mut().zip(&LANGUAGES) {
            *weight +=
                if text.contains(|it: char| !it.is_alphabetic() && marks.contains(it)) { 1.0 } else { 0.0 };
        }
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        let [first, second, ..] = order.as_slice() else { return None };
        let (best, next) = (weights[*first], weights[*second]);
        let is_clear = best >= WEIGHT_MIN && next <= SECOND_MAX * best && best >= DENSITY_MIN * count as f64;
        is_clear.then_some(Language(*first))
    }
}

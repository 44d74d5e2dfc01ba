"""What synthetic speakers say: sentences for training, and others, of other words, for validation.

Source: ours. English comes from a small grammar (random nouns, verbs, adjectives), the other languages have
fixed sentences (which voices of related languages read too); training adds word salads, numbers and nonsense
syllables, for rare phoneme sequences.
Validation shares no sentence with training, and no noun, verb or adjective of the English grammar. Two languages are
kept for tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Split = Literal["train", "val", "test"]
"""Test reads the sentences of val, in other voices, and those of UNHEARD_LANGUAGES."""
UNHEARD_LANGUAGES = ("it", "hi")
"""Neither training nor validation draws them."""

DETERMINERS = "the a my your every this some our her his".split()
LINKS = ("in", "with", "for", "about", "from", "because of", "before", "and", "but not", "above", "like")
OPENINGS = ("well", "so", "now", "look", "you see", "honestly", "I mean", "oh", "by the way")
ADVERBS = (
    "really maybe always often probably finally quickly slowly suddenly perhaps obviously usually".split()
)
ONSETS = "b d f g h k l m n p r s t v w z p b m f w sh ch st pr bl fl sp".split()
NUCLEI = "a e i o u a o u".split()
CODAS = ["", "", "", "n", "m", "p", "s", "t", "l", "r", "f"]


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """Word lists of the English sentence generator, and ready-made sentences beside it."""

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    adjectives: tuple[str, ...]
    sentences: tuple[str, ...]


ENGLISH: dict[str, Grammar] = {
    "train": Grammar(
        nouns=tuple(
            "time year people way man thing woman life child world school state family student"
            " country problem hand part place week company system program question work government"
            " number point home room mother area money story fact month lot right study book job word"
            " business side kind house service friend father power hour game line end member law car"
            " city community name president team minute idea information back face others level office"
            " door health person art war history party change reason research girl guy moment"
            " education butter apple summer mountain paper pepper move movie room farm boat beach"
            " bubble map lamp lip spoon smoke shoe fish church ship village voice wave fever fear wife"
            " whale window world quiet language orange rabbit zebra pleasure treasure thumb tooth"
            " leather brother feather path month cloth choice joy oil toy cow owl town mouse couch"
            " bird nurse purse shirt".split()
        ),
        verbs=tuple(
            "finds makes takes sees wants gives uses tells asks needs feels leaves puts means keeps"
            " begins helps shows hears plays moves likes believes brings builds holds writes provides"
            " loses pays meets includes follows learns leads watches remembers loves considers appears"
            " buys serves sends expects misses passes pushes offers improves wipes rubs chops shaves"
            " saves reaches wishes washes touches borrows swims warms chooses uses enjoys boils"
            " employs counts shouts allows turns hurts earns".split()
        ),
        adjectives=tuple(
            "good new first last long great little own other old right big high different small large"
            " next early young important few public bad same able beautiful famous purple simple warm"
            " broken smooth bitter awful lovely massive peaceful wonderful empty heavy funny foggy"
            " brave fresh rough tough fuzzy shy cheap sharp wooden curious worldwide thirsty thick"
            " loud brown proud royal noisy pure sour".split()
        ),
        sentences=(
            "I think we should move the paper boxes before the bus arrives.",
            "Five brave women found a beautiful blue balloon above the bay.",
            "Please pass the butter, my mother made some pumpkin pie.",
            "What do you want me to do about the problem?",
            "Oh no, I totally forgot about your birthday!",
            "We were away a year ago, remember?",
            "She sells sea shells by the sea shore.",
            "The quick brown fox jumps over the lazy dog.",
            "You know, people often believe whatever they want to believe.",
            "Yes, of course. Thank you very much for coming today.",
            "Why would anyone choose to live there?",
            "Bob and Pam bumped into Mom at the mall.",
            "A huge choice of cheese was shown on the show.",
            "The boy enjoyed the noise of the joyful choir.",
            "How now, brown cow, how about a loud shout?",
            "I owe you two thousand and three hundred dollars.",
            "Nothing is as easy as you think it is.",
            "He thought the weather was worse than the month before.",
            "Would you like to go with us to the new pool?",
            "Every evening my father reads the same page.",
            "Her nephew works in a furniture store on Thursdays.",
            "Usually the measure of pleasure is leisure.",
            "Hold on, let me check that for you.",
            "It is raining again, so bring your umbrella.",
            "Peter Piper picked a peck of pickled peppers.",
            "Around the rugged rock the ragged rascal ran.",
            "No, I do not know when the next one will come.",
            "Good morning everybody, and welcome to the show.",
        ),
    ),
    "val": Grammar(
        nouns=tuple(
            "garden kitchen pocket pirate uncle autumn cousin monkey bicycle museum bread forest"
            " shepherd volume teacher magic bamboo coffee evening button holiday thunder journey"
            " weapon hammer camera piano basket engine farmer valley potato cottage vampire lawyer"
            " doctor theme puzzle mushroom mouth chef".split()
        ),
        verbs=tuple(
            "opens carries visits grabs forgives answers throws drops measures imagines repeats"
            " climbs combs wraps weaves beats shapes bothers fetches worries wonders admires mentions"
            " polishes divides".split()
        ),
        adjectives=tuple(
            "gentle modern bright silver hungry frozen clever yellow private marvellous golden tiny"
            " weird patient humble wild smart deep thirteenth foreign cloudy muddy invisible strong".split()
        ),
        sentences=(
            "My aunt baked bread for the whole village last Friday.",
            "Could somebody open the window above the piano?",
            "Five boys from Memphis are playing basketball behind the barn.",
            "We have never been more hopeful about the future.",
            "The ship moved slowly through the thick white fog.",
            "How much would a woodchuck chuck if it could?",
            "Maybe tomorrow, if both of you feel a bit better.",
            "A proper cup of coffee in a proper copper pot.",
            "That voice belongs to somebody far above us.",
            "Welcome back! Our journey begins with a simple map.",
        ),
    ),
}

OTHERS: dict[str, dict[str, tuple[str, ...]]] = {
    "es": {
        "train": (
            "mi madre compra pan por la mañana",
            "los niños juegan con una pelota azul en el parque",
            "me parece que mañana va a llover mucho",
            "¿por qué no vamos a la playa el viernes?",
            "el problema es muy importante para nuestra familia",
            "buenos días, me llamo Pablo y vivo en Madrid",
            "hoy hablamos de la vida en una ciudad moderna",
            "todo el mundo sabe que eso no puede ser verdad",
            "ayer fui al mercado y compré fruta fresca",
            "mi abuelo siempre cuenta la misma historia",
        ),
        "val": (
            "el avión sale muy temprano del aeropuerto",
            "mis primos bailan mambo bajo la lluvia",
            "¿has visto mi bufanda verde?",
            "nadie quiso probar la sopa de pepino",
        ),
    },
    "de": {
        "train": (
            "meine Mutter möchte morgen früh nach München fahren",
            "wir haben über fünf wichtige Fragen gesprochen",
            "das Wetter ist heute wirklich wunderbar",
            "bitte bringen Sie mir einen Becher Wasser",
            "warum bist du gestern nicht gekommen?",
            "er wohnt mit seiner Familie in einem blauen Haus",
            "ich glaube, dass wir bald ein neues Problem bekommen",
            "die Buben baden abends im warmen Pool",
            "der Apfel schmeckt süß und die Pflaume etwas sauer",
            "schöne Grüße aus Köln und viel Vergnügen",
        ),
        "val": (
            "unser Bäcker verkauft am Samstag keine Brezeln",
            "plötzlich öffnete jemand das große Fenster",
            "könnten Sie das bitte noch einmal wiederholen?",
            "im Herbst fallen bunte Blätter von den Bäumen",
        ),
    },
    "fr": {
        "train": (
            "bonjour, je m'appelle Paul et j'habite à Bordeaux",
            "ma mère a mis une pomme dans mon panier",
            "nous voulons partir en vacances avec toute la famille",
            "pourquoi est-ce que tu ne peux pas venir?",
            "le problème est beaucoup plus important que prévu",
            "il fait beau aujourd'hui, on va se promener",
            "vous pouvez voir la mer depuis ma fenêtre",
            "bien sûr, je vous remercie de votre visite",
            "un bon vin blanc et du pain frais, voilà",
            "tu as vu le vieux bureau de mon oncle?",
        ),
        "val": (
            "les feuilles mortes tombent doucement sur le banc",
            "mon voisin répare son vélo devant la maison",
            "peut-être qu'il neigera pendant la nuit",
            "combien coûtent ces chaussures rouges?",
        ),
    },
    "it": {
        "train": (
            "mia madre prepara una buona pasta per tutti",
            "buongiorno, mi chiamo Marco e abito a Bologna",
            "domani mattina partiamo per una bella vacanza",
            "perché non vuoi venire con noi al mare?",
            "questo problema è molto importante per me",
            "il bambino beve un bicchiere di acqua fresca",
            "gli amici di mia figlia giocano in giardino",
            "ho comprato un libro nuovo e una penna blu",
        ),
        "val": (
            "la nonna racconta favole davanti al camino",
            "stasera ceniamo in una piccola trattoria",
            "chi ha spostato la mia bicicletta?",
        ),
    },
    "pl": {
        "train": (
            "moja mama bardzo lubi kwiaty i spacery po parku",
            "dzień dobry, nazywam się Paweł i mieszkam w Poznaniu",
            "nie wiem, dlaczego on tego nie powiedział",
            "jutro rano pojedziemy pociągiem nad morze",
            "w tym mieście jest dużo pięknych domów",
            "proszę bardzo, oto pana kawa i woda",
        ),
        "val": (
            "sąsiad naprawia stary rower przed garażem",
            "czy mogłabyś zamknąć to okno?",
            "babcia upiekła wczoraj szarlotkę",
        ),
    },
    "pt-br": {
        "train": (
            "minha mãe comprou pão e manteiga no mercado",
            "bom dia, eu me chamo Paulo e moro em Belém",
            "amanhã vamos viajar com toda a família",
            "por que você não veio ontem à noite?",
            "este problema é muito importante para nós",
            "o menino bebeu um copo de água fria",
        ),
        "val": (
            "meu vizinho toca violão na varanda",
            "a chuva molhou todas as janelas",
            "quem abriu a porta da cozinha?",
        ),
    },
    "nl": {
        "train": (
            "mijn moeder wil morgen vroeg naar Antwerpen rijden",
            "goedemorgen, ik heet Willem en ik woon in Utrecht",
            "waarom ben je gisteren niet gekomen?",
            "het weer is vandaag werkelijk prachtig",
            "we hebben een nieuw probleem met de fiets",
            "het meisje drinkt een beker warme melk",
        ),
        "val": (
            "onze buurman speelt elke avond piano",
            "wie heeft het raam opengezet?",
            "in de herfst vallen de bladeren",
        ),
    },
    "sv": {
        "train": (
            "min mamma köper bröd och smör varje morgon",
            "god dag, jag heter Björn och bor i Uppsala",
            "varför kom du inte hem igår kväll?",
            "vädret är verkligen underbart idag",
            "pojken dricker ett glas kallt vatten",
        ),
        "val": ("grannen lagar sin gamla cykel", "kan någon öppna fönstret?", "på hösten faller löven"),
    },
    "ru": {
        "train": (
            "моя мама любит цветы и прогулки по парку",
            "добрый день, меня зовут Павел, я живу в Москве",
            "почему ты вчера не пришёл домой?",
            "завтра утром мы поедем на море",
            "это очень важный вопрос для нашей семьи",
            "мальчик выпил стакан холодной воды",
        ),
        "val": ("сосед чинит старый велосипед", "кто открыл окно на кухне?", "осенью падают жёлтые листья"),
    },
    "tr": {
        "train": (
            "annem her sabah fırından ekmek alır",
            "günaydın, benim adım Mehmet, Bursa'da oturuyorum",
            "dün akşam neden gelmedin?",
            "bugün hava gerçekten çok güzel",
            "çocuk bir bardak soğuk su içti",
        ),
        "val": ("komşumuz bahçede gitar çalıyor", "pencereyi kim açtı?", "yapraklar sonbaharda düşer"),
    },
    "fi": {
        "train": (
            "äitini ostaa leipää ja voita joka aamu",
            "hyvää päivää, minun nimeni on Pekka",
            "miksi et tullut eilen illalla kotiin?",
            "tänään on todella kaunis ilma",
            "poika juo lasin kylmää vettä",
        ),
        "val": ("naapuri korjaa vanhaa pyörää", "kuka avasi ikkunan?", "syksyllä lehdet putoavat"),
    },
    "cs": {
        "train": (
            "moje maminka má ráda květiny a procházky",
            "dobrý den, jmenuji se Pavel a bydlím v Brně",
            "proč jsi včera večer nepřišel?",
            "zítra ráno pojedeme vlakem na výlet",
            "chlapec vypil sklenici studené vody",
        ),
        "val": ("soused opravuje staré kolo", "kdo otevřel to okno?", "na podzim padá barevné listí"),
    },
    "id": {
        "train": (
            "ibu saya membeli roti dan buah setiap pagi",
            "selamat pagi, nama saya Budi dari Bandung",
            "mengapa kamu tidak datang tadi malam?",
            "besok kami pergi ke pantai bersama keluarga",
            "anak itu minum segelas air putih",
        ),
        "val": (
            "tetangga memperbaiki sepeda tua",
            "siapa yang membuka jendela?",
            "hujan turun sepanjang hari",
        ),
    },
    "cmn": {
        "train": (
            "我妈妈明天要去北京看朋友",
            "今天天气非常好,我们去公园玩吧",
            "你为什么不喜欢这本书",
            "大家好,我的名字叫小明,很高兴认识你们",
            "爸爸每天早上都喝一杯牛奶",
            "这个问题对我们非常重要",
        ),
        "val": ("邻居在门口修自行车", "谁打开了厨房的窗户", "秋天树叶慢慢变黄了"),
    },
    "ja": {
        "train": (
            "はははまいあさパンをかいます",
            "わたしのなまえはまもるです",
            "どうしてきのうこなかったのですか",
            "きょうはとてもいいてんきですね",
            "うみへいってさかなをたべましょう",
        ),
        "val": ("となりのひとはピアノをひいています", "だれがまどをあけましたか", "もうすぐふゆやすみです"),
    },
    "ko": {
        "train": (
            "어머니는 매일 아침에 빵을 사요",
            "안녕하세요, 제 이름은 민수입니다",
            "어제 왜 안 왔어요?",
            "오늘은 날씨가 정말 좋네요",
            "바다에 가서 물고기를 먹읍시다",
        ),
        "val": ("이웃이 피아노를 치고 있어요", "누가 창문을 열었어요?", "가을에는 나뭇잎이 떨어져요"),
    },
    "hi": {
        "train": (
            "मेरी माँ हर सुबह बाज़ार से फल लाती है",
            "नमस्ते, मेरा नाम मोहन है",
            "तुम कल रात क्यों नहीं आए?",
            "आज मौसम बहुत अच्छा है",
            "बच्चा ठंडा पानी पी रहा है",
        ),
        "val": ("पड़ोसी पुरानी साइकिल ठीक करता है", "खिड़की किसने खोली?", "पतझड़ में पत्ते गिरते हैं"),
    },
    "ro": {
        "train": (
            "mama mea cumpără pâine în fiecare dimineață",
            "bună ziua, mă numesc Mihai și locuiesc la Cluj",
            "de ce nu ai venit aseară?",
            "mâine plecăm la mare cu toată familia",
            "băiatul a băut un pahar cu apă rece",
        ),
        "val": (
            "vecinul repară o bicicletă veche",
            "cine a deschis ușa?",
            "toamna cad frunzele galbene",
        ),
    },
}

BORROWED = {
    **dict.fromkeys(("es-419", "ca", "eu"), "es"),
    **dict.fromkeys(("da", "nb", "is"), "sv"),
    **dict.fromkeys(("et", "hu"), "fi"),
    **dict.fromkeys(("hr", "sk", "sl"), "cs"),
    **{"pt": "pt-br", "fr-be": "fr", "af": "nl", "lb": "de", "lt": "pl", "ms": "id", "sw": "id", "uk": "ru"},
    **{"bg": "ru", "sq": "ro", "la": "es", "vi": "id", "az": "tr", "cy": "en-us"},
}
"""Voices without sentences of their own, and whose they read: their sounds matter, not their meaning."""
LANGUAGES = (
    *(
        "en-us",
        "en",
        "en-gb-scotland",
        "en-gb-x-rp",
        "en-gb-x-gbclan",
        "en-gb-x-gbcwmd",
        "en-029",
        "en-us-nyc",
    ),
    *(language for language in OTHERS if language not in UNHEARD_LANGUAGES),
    *BORROWED,
)


def is_english(language: str) -> bool:
    """English of any region (plain "en" is British)."""
    return language.partition("-")[0] == "en"


def draw_sentence(rng: np.random.Generator, language: str, split: Split) -> str:
    """One random sentence of a language, with its punctuation."""
    language = BORROWED.get(language, language)
    if is_english(language):
        return _english_sentence(rng, ENGLISH["train" if split == "train" else "val"], split)
    sentences = OTHERS[language]["train" if split == "train" else "val"]
    if split == "test" and language in UNHEARD_LANGUAGES:
        sentences = (*OTHERS[language]["train"], *sentences)
    kind = rng.random()
    if split == "train" and kind < 0.3:
        return _word_salad(rng, sentences)
    if split == "train" and kind < 0.4:
        return f"{rng.integers(10_000)}, {rng.integers(1000)}."
    sentence = _pick(rng, sentences)
    return sentence if sentence.endswith("?") else f"{sentence}."


def _english_sentence(rng: np.random.Generator, grammar: Grammar, split: Split) -> str:
    kind = rng.random()
    if kind < 0.3:
        return _pick(rng, grammar.sentences)
    if split == "train" and kind < 0.38:
        return " ".join(_nonsense_word(rng) for _ in range(rng.integers(3, 8))) + "."
    if split == "train" and kind < 0.42:
        return f"{rng.integers(10_000)}, {rng.integers(1000)}."
    words = [_noun_phrase(rng, grammar), _maybe(rng, 0.3, ADVERBS), _pick(rng, grammar.verbs)]
    words.append(_noun_phrase(rng, grammar))
    if rng.random() < 0.6:
        words += [_pick(rng, LINKS), _noun_phrase(rng, grammar)]
    opening = _maybe(rng, 0.3, OPENINGS)
    text = f"{opening}, " * bool(opening) + " ".join(word for word in words if word)
    return text[0].upper() + text[1:] + _pick(rng, (".", ".", ".", "?", "!"))


def _noun_phrase(rng: np.random.Generator, grammar: Grammar) -> str:
    words = (_pick(rng, DETERMINERS), _maybe(rng, 0.45, grammar.adjectives), _pick(rng, grammar.nouns))
    return " ".join(word for word in words if word)


def _word_salad(rng: np.random.Generator, sentences: tuple[str, ...]) -> str:
    """Words of several sentences in random order; scripts without spaces give whole sentences."""
    words = " ".join(sentence.strip("¿?") for sentence in sentences).replace(",", "").split()
    return " ".join(_pick(rng, words) for _ in range(min(len(words), rng.integers(4, 9)))) + "."


def _nonsense_word(rng: np.random.Generator) -> str:
    syllables = rng.integers(1, 4)
    return "".join(_pick(rng, ONSETS) + _pick(rng, NUCLEI) + _pick(rng, CODAS) for _ in range(syllables))


def _maybe(rng: np.random.Generator, probability: float, options: tuple[str, ...] | list[str]) -> str:
    """One of the options, or an empty string."""
    return _pick(rng, options) if rng.random() < probability else ""


def _pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    return options[rng.integers(len(options))]

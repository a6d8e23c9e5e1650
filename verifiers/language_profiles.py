"""What tells languages apart: their scripts, and for those that share one, common words and letters of their own.

The words are each language's most frequent ones, as any grammar lists them; from their letters come the trigrams for
words that no list has.
"""

from __future__ import annotations

from collections.abc import Mapping

SCRIPTS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
    "greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "cyrillic": ((0x400, 0x52F),),
    "armenian": ((0x531, 0x587),),
    "hebrew": ((0x5D0, 0x5EA), (0x5F0, 0x5F2)),
    "arabic": ((0x620, 0x64A), (0x66E, 0x6D3), (0x6FA, 0x6FF), (0x750, 0x77F), (0xFB50, 0xFDFB), (0xFE70, 0xFEFC)),
    "ethiopic": ((0x1200, 0x135A),),
    "devanagari": ((0x900, 0x963), (0x971, 0x97F)),
    "bengali": ((0x980, 0x9E3), (0x9F0, 0x9F1)),
    "gurmukhi": ((0xA00, 0xA63), (0xA70, 0xA75)),
    "gujarati": ((0xA80, 0xAE3),),
    "odia": ((0xB00, 0xB63),),
    "tamil": ((0xB80, 0xBE3),),
    "telugu": ((0xC00, 0xC63),),
    "kannada": ((0xC80, 0xCE3),),
    "malayalam": ((0xD00, 0xD63), (0xD7A, 0xD7F)),
    "sinhala": ((0xD80, 0xDDF),),
    "thai": ((0xE01, 0xE3A), (0xE40, 0xE4E)),
    "lao": ((0xE81, 0xEBD), (0xEC0, 0xECD)),
    "myanmar": ((0x1000, 0x103F),),
    "georgian": ((0x10A0, 0x10FF),),
    "khmer": ((0x1780, 0x17D3),),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7A3)),
    "kana": ((0x3041, 0x3096), (0x30A1, 0x30FA), (0x30FC, 0x30FC), (0xFF66, 0xFF9D)),
    "han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3134F)),
}
"""Script -> ranges of code points of its letters and vowel signs."""

LETTERS_A_WORD: Mapping[str, float] = {"han": 1.6, "kana": 2.5, "hangul": 2.7, "ethiopic": 3.5}
"""How many letters of the script say as much as a word; 5 where it is not named."""

ONE_LANGUAGE: Mapping[str, str] = {
    "greek": "el", "armenian": "hy", "ethiopic": "am", "bengali": "bn", "gurmukhi": "pa", "gujarati": "gu",
    "odia": "or", "tamil": "ta", "telugu": "te", "kannada": "kn", "malayalam": "ml", "sinhala": "si", "thai": "th",
    "lao": "lo", "myanmar": "my", "georgian": "ka", "khmer": "km", "hangul": "ko", "hebrew": "he",
}  # fmt: skip
"""Scripts that tell the language. Han with kana is Japanese, without it Chinese."""

LETTERS: Mapping[str, Mapping[str, str]] = {
    "latin": {
        "af": "áèéêëïóôöúûý",
        "ca": "àçèéíïòóúü·",
        "cs": "áčďéěíňóřšťúůýž",
        "cy": "âêîôûŵŷáëïö",
        "da": "æøåé",
        "de": "äöüß",
        "en": "",
        "es": "áéíñóúü",
        "et": "äõöüšž",
        "fi": "äöå",
        "fr": "àâæçèéêëîïôœùûüÿ",
        "hr": "čćđšž",
        "hu": "áéíóöőúüű",
        "id": "",
        "it": "àèéìòù",
        "lt": "ąčęėįšųūž",
        "lv": "āčēģīķļņšūž",
        "nl": "ëïéèöüáó",
        "no": "æøåéòô",
        "pl": "ąćęłńóśźż",
        "pt": "áâãàçéêíóôõú",
        "ro": "ăâîșşțţ",
        "sk": "áäčďéíĺľňóôŕšťúýž",
        "sl": "čšž",
        "so": "",
        "sq": "çë",
        "sv": "åäöé",
        "sw": "",
        "tl": "ñ",
        "tr": "çğıöşüâîû",
        "vi": "àáâãèéêìíòóôõùúýăđĩũơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    },
    "cyrillic": {
        "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
        "uk": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",
        "bg": "абвгдежзийклмнопрстуфхцчшщъьюя",
        "mk": "абвгдѓежзѕијклљмнњопрстќуфхцчџшѐѝ",
        "sr": "абвгдђежзијклљмнњопрстћуфхцчџш",
        "be": "абвгдеёжзійклмнопрстуўфхцчшыьэюя",
    },
    "arabic": {
        "ar": "ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهويى",
        "fa": "ءآأؤئابپتثجچحخدذرزژسشصضطظعغفقکگلمنوهیۀ",
        "ur": "ءآأؤئابپتٹثجچحخدڈذرڑزژسشصضطظعغفقکگلمنںوہھیےۓۂ",
    },
}
"""Letters of each language's alphabet; for Latin those beyond a to z."""

WORDS: Mapping[str, Mapping[str, str]] = {
    "latin": {
        "af": (
            "die van en in is het dit vir met op wat nie dat hy sy was om te aan word sal ons hulle ek jou jy maar as "
            "uit ook deur nog meer na kan een n 'n by haar hierdie baie moet waar toe daar wees goed my se oor net "
            "sien dag kom gaan tussen groot twee omdat mense elke altyd ander almal huis wil verskillende kry kyk sê "
            "maak asseblief want dink weet kinders mens tyd lewe werk nuwe begin jaar eerste gebruik water ouma "
            "verlede voordat totdat sleutel skool"
        ),
        "ca": (
            "el la de i que a en els les un una per amb no és del al es se com més però són va ha dels us jo seu "
            "aquest aquesta també molt quan hi tot tots fins sense entre ser han fer dia anys on si ja nosaltres cada "
            "perquè bé això res meva seves podem vull gràcies casa seva avui durant abans després"
        ),
        "cs": (
            "a se v na je že s z do o to i ve si jsem jak k by ale jako za po co jsou pro tak byl bylo být jeho má "
            "která který které jsme než když už nebo od může jen také při velmi kde já ty on ona mi tu této budeme "
            "dnes všechny den roku ještě aby proto však jejich můžete tento tím naše dobrý moc mezi"
        ),
        "cy": (
            "y yr yn a i o ar mae ei am ac wedi bod gan eu ein hi ni chi nhw sydd oedd roedd hefyd un dau ond fel pan "
            "neu nid ddim gyda at ym mewn cael gwneud mynd bydd iawn pobl dydd da hwn hon fy dy mae'r i'r o'r gallwch "
            "yw fawr byd cymru pob bob rhaid lle cyn ôl"
        ),
        "da": (
            "kan finde købe køber tage lave kommer siger gør hjem hjemme bør børn børnene gammel gamle sidste første "
            "penge mand kvinde arbejde fordi inden tid dage timer nogen ingen hos deres vores jeres ud igen uge lidt "
            "mellem og i det at er en til på for af med den de ikke der et som har var jeg han vi du men fra vil om "
            "hun skal så eller når efter over ved også hvis dem mig sig sin hvor noget blev bliver meget være hvad "
            "mange kun nu op år dag to tre uden godt altid begge mere kunne derfor hver lige tak blive havde selv "
            "hvordan"
        ),
        "de": (
            "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er "
            "hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor "
            "zur bis mehr durch man sein wurde ich wir ihr kann diese dieser sehr wenn mein immer heute unter gegen "
            "vom können schon da kein keine jeden tag alle zwischen viele uns bitte danke gut hallo ja nein guten "
            "morgen müssen gibt machen kommt geht weil dann dort zwei drei neue alte ersten"
        ),
        "en": (
            "hello yes no please thanks go went come came get got take made say says big small old new want need find "
            "house children school water life food book city country year years last next morning night friend family "
            "because before after the of and to in a is that for it was on are as with his they at be this from i have "
            "or by one had not but what all were when we there can an your which their said if do will each about how "
            "up out them then she many some so these would other into has more her two like him see time could make "
            "than first been its who now people my over did down only way use may long little very words called just "
            "where most know you he our me should any also while every always never here am us let again both between "
            "thank good day today think work world well does don't it's i'm through under"
        ),
        "es": (
            "hola casa vida tiempo agua niños quiero puedo tengo hace gran nuevo buena dos tres de la que el en y a "
            "los se del las un por con no una su para es al lo como más o pero sus le ya este sí porque esta entre "
            "cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno les ni contra "
            "otros ese eso ante ellos e esto mí antes algunos qué unos yo otro otras otra él tanto esa estos mucho "
            "nada muchos cual poco ella estar está están son fue era ser tiene puede hacer años día hoy cada siempre "
            "bien gracias nuestro mi tu te usted ha han"
        ),
        "et": (
            "uus vana maja kodu lapsed vesi eelmine aeg elu töö teha minna tulla leia peab tuleks kolm nüüd siin seal "
            "ja on ei et kui see ta oli mis ma ka aga siis ning nii kes me sa oma või seda need ole kõik veel selle "
            "välja pärast sest nad tema mida enne väga kuid üle juba nagu ainult saab olla tuleb minu meie teie üks "
            "kaks palju hea päev täna aasta kus alla vahel iga alati inimesed tänan võib mitte selles just läbi"
        ),
        "fi": (
            "voin voit minulla sinulla hänellä kaksi kolme vanha vanhaa uusi uuden talo koti kotiin lapset vesi viime "
            "ensi jälkeen kesällä aika elämä työ tehdä mennä tulla löydä saa pitää täytyy ja on ei se että oli hän en "
            "ole mutta kun niin minä tai olen myös jos kuin ovat sen mitä vain joka sinä nyt siitä voi me te he kaikki "
            "tämä tämän jo sitten hyvin sekä mukaan koska ennen kanssa olla ollut joten siellä täällä missä minun "
            "hänen meidän hyvä paljon päivä vuonna tänään aina yksi enemmän jotka sitä noin kiitos jossa ilman vielä "
            "mikä ihmiset usein"
        ),
        "fr": (
            "bonjour oui non maison vie temps eau enfants veux peux dit grand nouveau petit trois car de la le et les "
            "des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec son aux d l cette ou "
            "nous vous elle ses mais comme on leur bien être tout ils même si fait deux entre je sans peut ont sa "
            "était c'est j'ai n'est qu'il très aussi après où mon ma mes tous faire avoir cela ces votre notre quand "
            "avant chez toujours jour aujourd'hui ans peu encore chaque moi merci bon y été donc"
        ),
        "hr": (
            "i je u se da na su za od s a o koji ne što bi iz kao ali to sam ili do samo biti ja kako nije ima kada "
            "već pa smo te po jer ako još bio koja koje ih njegov sve mi on ona nakon prije može vrlo više sa gdje "
            "danas dan godine među uvijek ljudi moj naš dobro hvala također bez ovaj ova ovo kroz treba ništa tko "
            "jedan dva"
        ),
        "hu": (
            "a az és hogy nem is egy van ez de meg csak már volt el ha mint még ki én kell vagy be azt mert nagyon úgy "
            "le mi te ő minden fel lehet jó nincs aki most itt ezt olyan pedig után között amely lesz két több ami "
            "mindig sok nap ma akkor ahol azonban együtt voltak szerint alatt előtt ezek azok köszönöm év nélkül hanem "
            "vagyok"
        ),
        "id": (
            "yang dan di ini itu dengan untuk dari dalam tidak ke akan pada adalah saya juga atau ada mereka sudah "
            "kita bisa oleh karena anda dia kami telah dapat seperti lebih sangat banyak tersebut satu dua orang hari "
            "tahun menjadi sebagai saat namun lagi setiap hanya masih harus secara antara jika tetapi kepada bagi para "
            "serta sebuah selalu bukan apa baik terima kasih semua ingin belum ketika kamu aku"
        ),
        "it": (
            "ciao casa vita tempo bambini voglio posso grande nuovo buona due tre prego di che è la il un a per in una "
            "mi sono ho non ma lo ha le si ti i con cosa se io come da ci no questo qui e hai sei del bene tu sì me "
            "più al mio c'è perché lei solo te era gli tutto della così quello fare quando ora quella alla nel dei "
            "delle anche sua suo loro molto dove stato essere prima poi sempre anni oggi ogni giorno ancora tra nella "
            "hanno può grazie dopo sul degli senza tutti l'acqua"
        ),
        "lt": (
            "ir į kad yra su iš tai ne bet ar buvo kaip o apie už dar jis jo tik po nuo jau jei mes aš tu labai prie "
            "per savo kai jos jų iki mano visi arba kuris kuri kurie ką šis ši galima gali būti daug metų diena "
            "šiandien visada tarp nėra todėl taip pat mūsų jūsų žmonės prieš be geras ačiū vienas du kiekvieną kur ant"
        ),
        "lv": (
            "un ir ka no ar uz par to kas bet ne tas es viņš lai kā arī vai ja tikai pie līdz jau tā bija pēc tiek mēs "
            "jūs savu ļoti kad vēl nav šis šī var būt daudz dažādi gads diena šodien vienmēr starp mūsu jūsu cilvēki "
            "pirms bez labs paldies viens divi katru kur ko viņa viņi tad nekad lielu mana manā tāpēc"
        ),
        "nl": (
            "de van het een en in is dat op te zijn met voor niet die aan er om ook als dan bij maar naar uit nog of "
            "door over ze hij tot je kan worden wordt deze heeft had meer al was werd dit wel geen we ik zo mijn zich "
            "onder moet veel hun onze heel goed wat waar jij u hebben hebt toch alleen elke dag jaar tussen twee "
            "altijd vandaag mensen graag want zonder omdat haar zou iets daar dank kunnen zal gaan ja nee hallo huis "
            "leven tijd water kinderen wil ga komt maken grote nieuwe oude eerste"
        ),
        "no": (
            "finne kjøpe kjøpte ta lage kommer sier gjør hjem hjemme bør barn barna gammel gamle siste første penger "
            "mann kvinne arbeid fordi innen tid dager timer ingen hos deres vår vårt deg uke litt igjen seg fjor og i "
            "det er på til som en å for av at med de ikke den har han om et var jeg fra vi men kan så ble hun skal vil "
            "eller også når dette etter over ved ut noe hva meg sin hvor mange være må bare nå opp år dag to mellom "
            "alltid begge mer mye svært kunne derfor hver bli hadde selv hvordan uten oss dere noen ikkje mot går få "
            "gjøre bra takk sammen blir vært gikk jobbe"
        ),
        "pl": (
            "w i na z do się nie że jest to o jak za po przez od ale co był dla jego są być ich oraz który która które "
            "tak tym już może tylko także czy ma ze jej przed bardzo kiedy jeszcze było gdy mnie ja ty my wy on ona mi "
            "bez pod można więc jako ten ta te lub jednak gdzie zawsze dzień dziś roku wszystko między każdy proszę "
            "dziękuję dobrze mam nas nam będzie a"
        ),
        "pt": (
            "olá casa vida tempo água crianças quero posso tenho faz grande novo boa dois três de a o que e do da em "
            "um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou ser quando "
            "muito há nos já está eu também só pelo pela até isso ela entre era depois sem mesmo aos ter seus quem nas "
            "me esse eles estão você tinha foram essa num nem suas meu às minha têm numa pelos elas havia seja qual "
            "será nós lhe deles isto fazer anos dia hoje cada sempre bem obrigado pode são ainda onde porque sobre "
            "todos"
        ),
        "ro": (
            "de și în a la cu pe este care din nu un o ce mai pentru sunt ca să că au am fost sau dar prin după lui fi "
            "ei el ea se le ne va când foarte fără între toate tot dacă cum acest această unde poate avea era fie "
            "astfel doar despre până noi voi eu mea meu ani zi azi întotdeauna fiecare bine mulțumesc sa său către fac "
            "face dintre numai două trebuie ale cei cele"
        ),
        "sk": (
            "a sa v na je že s z do o to i vo si som ako k by ale za po čo sú pre tak bol bolo byť jeho má ktorá ktorý "
            "ktoré sme než keď už alebo od môže len tiež pri veľmi kde ja ty on ona mi tu tejto budeme dnes všetky deň "
            "roku ešte aby preto však ich môžete tento tým naše dobrý ďakujem medzi nie každý vždy ľudia bez máme "
            "svoje"
        ),
        "sl": (
            "in je v na za se so da ki pa z od ne s po tudi kot iz do bi ali pri več le že to ni bo sem še ko kaj bil "
            "bila bilo smo ta kjer zelo lahko biti mi jaz ti on ona naš moj pred med danes dan leta vedno ljudje dobro "
            "hvala brez vsak vse kdo ker če ampak samo nekaj zaradi dva vendar imajo ima"
        ),
        "so": (
            "waa iyo in oo ka ku ay u uu la ah ayaa ma aan waxaa si kale loo wax isku badan mid laga yahay waxay hadda "
            "kuwa dad dadka laakiin markii kala sida inuu inay wuxuu soo leh jiray lagu karaa maalin waan waxa isaga "
            "iyada aniga adiga qof guri wanaagsan mahadsanid maanta sannad kasta weyn"
        ),
        "sq": (
            "dhe në të e i një që për me nga është se si ka më nuk janë por kjo ky do ishte kur ose edhe ai ajo unë ti "
            "ne ju ata këtë shumë vetëm mund duke pas para deri kemi kam ku sot ditë vit gjithmonë njerëzit mirë "
            "faleminderit çdo asnjë midis tyre tij saj sepse disa kishte jetë gjatë"
        ),
        "sv": (
            "och i att det som en på är av för med till den har de inte om ett han men var jag från vi så kan när hon "
            "också ska eller sig då år efter nu bara mycket vara sina där hur bli blev blir många över vid ut alla mig "
            "dig oss min din mer än under mellan dag idag alltid två varje utan därför skulle hade något vad mot bra "
            "tack sedan få går göra måste hos samt"
        ),
        "sw": (
            "na ya wa kwa ni katika za la kuwa cha ili hii hiyo huo vya kama si yake wake wao hivyo watu mimi sisi "
            "yeye wewe kila pia sana bila au lakini baada kabla hadi mtu siku mwaka leo wote yote nyingi wengi moja "
            "mbili huu ambao ambayo ambaye wakati kuna hapa huko nini nchi kazi nzuri asante tu bado ndiyo hapana "
            "yangu yetu zaidi watoto chakula maji alikuwa walikuwa tunaweza unaweza inaweza"
        ),
        "tl": (
            "ang ng sa na mga ay at ko mo ka si ito hindi para siya ako may niya namin kung kami sila ni pa ba lang "
            "din rin kaya dahil upang kanyang aming ating nila natin tayo ikaw kayo isang isa dalawa araw tao bahay po "
            "opo wala mayroon maging noong ngayon palagi bawat mabuti salamat pero ngunit tulad bago pagkatapos "
            "maraming iyong aking nito doon dito lahat ano saan kapag mahal malaki napaka"
        ),
        "tr": (
            "ve bir bu da de için ile çok ne o ama daha var gibi olarak en kadar sonra mi ben ya her olan değil ki mı "
            "sen biz siz onlar şey yok iki zaman ise nasıl diye ancak veya göre büyük olduğu olduğunu önce kendi bana "
            "sana onun bizim iyi gün bugün yıl hep insanlar teşekkür ederim arasında bütün tüm neden çünkü hiç eğer "
            "böyle şimdi yeni oldu olur ederek benim"
        ),
        "vi": (
            "và của là có không được trong cho một các với những người này khi đã để đến từ như cũng về ở tôi nhiều "
            "thì ra vào lại còn mà sẽ phải nhưng bạn anh chị em ông bà chúng ta nó họ năm ngày rất đó làm nếu sau trên "
            "mình nói đi biết thể việc hay vì đang tại bị chỉ lớn hai gì theo nhất hơn nhà cảm ơn luôn mỗi hôm nay"
        ),
    },
    "cyrillic": {
        "ru": (
            "и в не на я быть он с что а по это она этот к но они мы весь который из у то за свой год от так о для ты "
            "же все тот мочь вы человек такой его сказать только или ещё бы себя один как уже до время если сам когда "
            "вот наш мой знать стать при чтобы дело жизнь кто очень два день её новый рука даже во со раз где там под "
            "можно после их нет была были было есть сегодня всегда между каждый потому спасибо хорошо меня нас мне "
            "привет да мир могу можешь может могут хочу хочет знаю знает буду будет будут сказал сказала найти купить "
            "дом люди дети вода прошлый старый хороший большой новая сейчас теперь здесь нужно надо которые которая "
            "своей этой этого своего"
        ),
        "uk": (
            "привіт так ні світ можу можеш може можуть хочу хоче знаю знає буду буде будуть сказав сказала знайти "
            "купити дім час люди діти вода минулий старий добрий великий нова зараз тепер тут треба потрібно які яка "
            "своєї цієї цього свого і в не на я бути він з що а по це вона цей до але вони ми весь який із у та за "
            "свій рік від про для ти же всі той могти ви людина такий його сказати тільки або ще би себе один як вже "
            "якщо сам коли ось наш мій знати стати при щоб справа життя хто дуже два день її новий рука навіть раз де "
            "там під можна після їх немає була були було є сьогодні завжди між кожен тому дякую добре мене нас мені й"
        ),
        "bg": (
            "и в не на аз да той с че а по това тя този към но те ние целия който от у за свой година така о ти же "
            "всички онзи може вие човек такъв него каже само или още би себе си един как вече до време ако когато ето "
            "наш мой знае при дело живот кой много два ден неговата нов дори където там под след няма беше бяха има "
            "днес винаги между всеки защото благодаря добре мен ни ми са се е ще съм като които което която здравей "
            "свят мога можеш могат искам иска знам бъде каза намеря купи дом хора деца вода миналия стар добър голям "
            "нова сега тук трябва тази тези му ѝ ги"
        ),
        "mk": (
            "здраво да не свет можам можеш може можат сакам сака знам знае ќе биде беше рече најдам купи дом време "
            "луѓе деца вода минатиот стар добар голем нова сега тука треба оваа овие ги му ја и во на јас тој со дека "
            "а по ова таа овој кон но тие ние целиот кој од за свој година така ти сите вие човек само или уште би "
            "себе еден како веќе до ако кога ете наш мој при живот многу два ден нов дури каде таму под после нема беа "
            "има денес секогаш меѓу секој затоа благодарам добро мене ни ми се е сум што која кои своја"
        ),
        "sr": (
            "и у не на ја да он са што а по ово она овај ка али они ми цео који од за свој година тако ти сви може ви "
            "човек само или још би себе један како већ до време ако када ево наш мој зна при живот ко врло два дан нов "
            "чак где тамо под после нема био била било су је има данас увек између сваки зато хвала добро мене нам "
            "веома се ће сам као која које здраво свет могу можеш желим жели знам бити беше рекао нађем купио дом људи "
            "деца вода прошли стар добар велики нова сада овде треба ова ови њихов своје него"
        ),
        "be": (
            "і ў не на я быць ён з што а па гэта яна гэты да але яны мы увесь які у за свой год ад так пра для ты ж "
            "усе той магчы вы чалавек такі яго сказаць толькі або яшчэ бы сябе адзін як ужо час калі сам вось наш мой "
            "ведаць стаць пры каб справа жыццё хто вельмі два дзень яе новы нават дзе там пад можна пасля іх няма была "
            "былі было ёсць сёння заўсёды паміж кожны таму дзякуй добра мяне нас мне"
        ),
    },
    "arabic": {
        "ar": (
            "في من على إلى أن هذا التي الذي ما لا عن هو هي مع كان كل قد بعد هذه ذلك بين أو لم إن كما كانت ولا عند أي "
            "ثم حتى لكن وقد منذ غير أنه نحن أنا أنت هم يكون تكون كيف يوم اليوم عام جدا شكرا دائما الناس هناك إذا قبل "
            "أكثر يمكن فيها فيه له لها حيث والتي وهو وهي خلال نا يا لأن بها به"
        ),
        "fa": (
            "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز گفت می شود شد ما اما یا باید هر او من شما "
            "آنها بود دارد کند اگر پس بین همه چه ها های هستند وی پیش روز سال امروز همیشه خیلی مردم خوب بسیار دو کردن "
            "شده نیست بی کار چون سپس کنید کنیم دارم دارند زندگی متشکرم میشود بودند کردم"
        ),
        "ur": (
            "کے کی میں ہے اور سے کا کو اس نے ہیں کہ پر یہ ہو بھی ایک تھا نہیں کر جو تو ہم وہ آپ ان کیا گیا لیے لئے تک "
            "تھی تھے ساتھ بعد مجھے ہمارے میرے میرا اپنے اپنی سب بہت کچھ رہا رہے رہی دو دن سال آج ہمیشہ لوگ اچھا شکریہ "
            "جب اگر کوئی کسی ہوتا ہوتی ہوتے والے والا سکتے سکتا ہوں پہلے یا مگر لیکن"
        ),
    },
    "devanagari": {
        "hi": (
            "हमें उन्हें उसे घर बच्चे लड़का पानी समय जीवन काम नया बड़ा बड़े चाहिए करें दें लें कृपया क्योंकि शुरू बजे "
            "जाते आते रहते पसंद गए आए दिया लिया दिए कीजिए करो वहाँ यहाँ के की में है और से का को इस ने हैं कि पर यह हो "
            "भी एक था नहीं कर जो तो हम वह आप उन क्या गया लिए तक थी थे साथ बाद मुझे हमारे मेरे मेरा अपने अपनी सब बहुत "
            "कुछ रहा रहे रही दो दिन साल आज हमेशा लोग अच्छा धन्यवाद जब अगर कोई किसी होता होती होते वाले वाला सकते सकता "
            "हूँ हूं पहले या मगर लेकिन उस उसके जाता जाती करने करते ये वे मैं ऐसा कैसे"
        ),
        "mr": (
            "आमच्या तुमच्या त्यांना त्याला तिला यांना आणि घर घरी मुले मुलगा पाणी वेळ जीवन काम नवीन मोठा मोठे पाहिजे "
            "पाहिजेत करा द्या घ्या कृपया कारण झाल्यावर सुरू वाजता जात येत राहत आवडते लागते गेले आले दिले घेतले शकतो "
            "शकते शकता आहे या ते तो ती हा ही हे मी आहेत नाही होते होता होती आम्ही तुम्ही आपण आपल्या माझे माझ्या माझी "
            "त्या त्यांनी त्याच्या त्यांच्या एक दोन दिवस वर्ष आज नेहमी लोक चांगला चांगले खूप सर्व काही जर तर पण किंवा "
            "म्हणून मध्ये साठी असे असते असतो असलेल्या झाले झाला झाली करून करतो करते केले केली कसे काय कुठे येथे तेथे "
            "पासून नंतर आधी मला आम्हाला तुला तुम्हाला धन्यवाद व की च ला ने चा ची चे"
        ),
        "ne": (
            "मैले हामीले उसले तिनीहरू बच्चाहरू घर घरमा केटा पानी समय जीवन काम नयाँ ठूलो चाहिन्छ गर्नुहोस् दिनुहोस् "
            "कृपया सुरु बजे मा जान आउन बस्न मन पर्छ गयो आयो दियो लियो सक्छ सक्छन् सकिन्छ पर्दछ रहेको रहेका छ र को हो "
            "का लागि गर्न भने पनि यो त्यो एक गरेको भएको थियो छन् छैन हुन् हामी म तिमी तपाईं उनी उनले मेरो हाम्रो तर वा "
            "दुई दिन वर्ष आज सधैं मानिस मानिसहरू राम्रो धेरै सबै केही यदि किनभने पछि अघि बाट सँग तथा गर्छ गर्छन् गर्ने "
            "गरे गर्नु हुन्छ हुने भयो भए थिए लाई ले यस त्यस कसरी कहाँ यहाँ त्यहाँ धन्यवाद छु छौं जान्छ गएको नै अनि के "
            "की"
        ),
    },
}
"""Script -> language -> its frequent words, in lower case."""
